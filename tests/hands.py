"""The hands of people and of a voicemail application on the files of a store: what they do to them without vmctl.

One class for each format. `tests/test_store_contract*.py` say through it what happens to a store, so that the suite
knows no file name of any format.
"""

import json
import os
import shutil
from pathlib import Path

import yaml

from vmctl.store.native import NativeStore


def in_place(path, data):
    """Overwrite the file that is there."""
    path.write_bytes(data)


def renamed_over(path, data):
    """Write another file and rename it over, as most editors do."""
    beside = path.with_name(path.name + "~")
    beside.write_bytes(data)
    beside.rename(path)


def moved_away_first(path, data):
    """Rename the file away, then write a new one, as some editors do."""
    path.rename(path.with_name(path.name + "~"))
    path.write_bytes(data)


def cut_first(path, data):
    """Truncate the file, then write it bit by bit."""
    path.write_bytes(b"")
    for byte in data:
        with path.open("ab") as file:
            file.write(bytes([byte]))


def keeping_times(path, data):
    """Overwrite the file and give it the times back that it had, as `cp -p` and `touch -r` do."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


WAYS_TO_SAVE = (in_place, renamed_over, moved_away_first, cut_first, keeping_times)


class NativeHand:
    """The native format."""

    store = NativeStore

    def __init__(self, root):
        self.root = root

    # The application

    def leave(self, box, ident, audio: bytes, **fields):
        """Leave a message: the recording first, its document last, both by rename."""
        self.begin(box, ident, audio)
        self.finish(box, ident, **fields)

    def begin(self, box, ident, audio: bytes):
        """Put the recording of a message there, and not its document yet."""
        self._messages(box).mkdir(exist_ok=True)
        renamed_over(self._recording(box, ident), audio)

    def finish(self, box, ident, **fields):
        """Put the document of a message there."""
        self._messages(box).mkdir(exist_ok=True)
        value = {"from": "4711", "received": "2026-01-31T08:15:00Z", "status": "new"} | fields
        renamed_over(self._document(box, ident), json.dumps(value).encode())

    def mark(self, box, ident, status):
        """Set the status of a message."""
        value = json.loads(self._document(box, ident).read_bytes()) | {"status": status}
        renamed_over(self._document(box, ident), json.dumps(value).encode())

    def cut_off(self, box, ident):
        """Leave half of a message's document, as a crash of the application does; gives the whole."""
        whole = self._document(box, ident).read_bytes()
        renamed_over(self._document(box, ident), whole[: len(whole) // 2])
        return whole

    def mend(self, box, ident, whole: bytes):
        """Put the whole document back."""
        renamed_over(self._document(box, ident), whole)

    def remove(self, box, ident):
        """Delete a message: its document first."""
        self._document(box, ident).unlink()
        self._recording(box, ident).unlink()

    def copy(self, box, ident, to):
        """Copy a message's files to another mailbox, under the identity that they have."""
        shutil.copytree(self._messages(box), self._messages(to))

    # Accidents

    def lose_recording(self, box, ident):
        """The recording is gone, the document is there."""
        self._recording(box, ident).unlink()

    def spoil_recording(self, box, ident):
        """The recording has other bytes; its size and times are what they were."""
        path = self._recording(box, ident)
        keeping_times(path, path.read_bytes()[:-2] + b"??")

    def recording(self, box, ident):
        """The bytes of a message's recording."""
        return self._recording(box, ident).read_bytes()

    # People

    def mailbox_file(self, box):
        """The file in which people edit a mailbox."""
        return self.root / f"mailboxes/{box}/mailbox.yaml"

    def mailbox_text(self, **fields):
        """What people write into it."""
        return yaml.safe_dump(fields).encode()

    def comment(self):
        """What people write beside it, and no reader takes for a value."""
        return b"# ask Ada\n"

    def broken_texts(self):
        """What a mailbox's file may hold and be none."""
        return (b"name: [", b"\x00", b"\xff\xfe", b"- a list\n", b"name: 1\nname: 2\n", b"pin: 1\n", b"a: &a [*a]\n")

    def callflow_file(self, name):
        """The file in which people edit a callflow."""
        return self.root / f"callflows/{name}.yaml"

    def prompt_file(self, name):
        """The file of a prompt's recording."""
        return self.root / f"prompts/{name}.wav"

    def message_folder(self, box):
        """The folder of a mailbox's messages."""
        return self._messages(box)

    def litter(self):
        """Put things there that belong to nothing, under names that nobody expects; gives their paths."""
        odd = [
            b"notes.txt",
            b"-rf",
            b"new\nline",
            b"\xff\xfe",
            b"prompts/sound.flac",
            b"prompts/\xc3\x28.wav",
            b"callflows/" + b"x" * 200 + b".yaml",
            b"callflows/-main.yaml",
            b"mailboxes/README",
            b"mailboxes/2001/greetings/hello.wav",
            b"mailboxes/2001/messages/\xe9t\xe9.json",
            b"mailboxes/2001/messages/a b.wav",
            b"mailboxes/2001/messages/$(reboot).json",
        ]
        for name in odd:
            path = Path(os.fsdecode(os.fsencode(self.root) + b"/" + name))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"?")
        for folder in ("callflows/main.d", "mailboxes/2001/more", "mailboxes/two thousand"):
            (self.root / folder).mkdir()
            odd.append(folder.encode())
        return {os.fsdecode(name) for name in odd}

    def no_plain_files(self, target):
        """Put links to `target`, pipes and folders where files of records belong; gives their paths."""
        self._messages("2001").mkdir(exist_ok=True)
        (self.root / "callflows").mkdir(exist_ok=True)
        (self.root / "prompts").mkdir(exist_ok=True)
        links = ("callflows/linked.yaml", "prompts/linked.wav", "mailboxes/2001/messages/linked.json", "mailboxes/2009")
        pipes = ("callflows/pipe.yaml", "prompts/pipe.wav", "mailboxes/2001/messages/pipe.json")
        folders = ("callflows/folder.yaml", "mailboxes/2001/messages/folder.json")
        for path in links:
            (self.root / path).symlink_to(target)
        for path in pipes:
            os.mkfifo(self.root / path)
        for path in folders:
            (self.root / path).mkdir()
        return {*links, *pipes, *folders}

    def _messages(self, box):
        return self.root / f"mailboxes/{box}/messages"

    def _document(self, box, ident):
        return self._messages(box) / f"{ident}.json"

    def _recording(self, box, ident):
        return self._messages(box) / f"{ident}.wav"
