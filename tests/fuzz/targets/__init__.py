"""Every target, by its name."""

from fuzz.targets.changes import CHANGES
from fuzz.targets.dialogue import RECEIVER, SENDER, STRANGER
from fuzz.targets.entrance import BOUNCE, DOOR
from fuzz.targets.lines import JOURNAL
from fuzz.targets.mails import FORGED, MAIL
from fuzz.targets.papers import CODE, CONFIG, IDENTITY, MESSAGE, RECORDING, STORE, YAML

TARGETS = {
    target.name: target
    for target in (
        MAIL, FORGED, DOOR, BOUNCE, CHANGES, RECEIVER, STRANGER, SENDER, CONFIG, YAML, MESSAGE, IDENTITY, RECORDING, CODE, STORE, JOURNAL,
    )
}  # fmt: skip
