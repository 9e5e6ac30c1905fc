"""Every error that vmctl raises on purpose, with its exit code, whether trying again may help, and the mend.

    VmctlError                       1
    +-- ConfigError                 10..19  what people wrote
    |   +-- ConfigMissing           10
    |   +-- ConfigFaults            11
    |   +-- NotEmpty                12
    |   +-- ServerUnclear           13
    |   +-- OutputClosed            14
    |   +-- NotEdited               15
    +-- StoreError                  20..29  the directory on disk
    |   +-- StoreMissing            20
    |   +-- StoreForeign            21
    |   +-- StoreNewer              22
    |   +-- StoreBusy               23  (try again)
    |   +-- DiskFull                24  (try again)
    |   +-- IndexDamaged            25
    |   +-- StoreUnusable           26  (try again)
    |   +-- StoreDamaged            27
    |   +-- StoreExchanged          28  (try again)
    |   +-- SpoolFull               29  (try again)
    +-- RecordError                 30..39  one mailbox, message, greeting, callflow, prompt, setting
    |   +-- NotFound                30
    |   +-- AlreadyExists           31
    |   +-- BadName                 32
    |   +-- BadValue                33
    |   +-- BadAudio                34
    |   +-- MailboxFull             35
    |   +-- BrokenFile              36
    |   +-- CallflowFaults          37
    +-- SyncError                   40..49  the two servers together
    |   +-- PeerUnreachable         40  (try again)
    |   |   +-- MailPutOff          40  (try again)
    |   |   +-- PeerUntrusted       48  (try again)
    |   |   +-- LoginRefused        49  (try again)
    |   +-- NotInStep               41  (try again)
    |   +-- StoresDiffer            42
    |   +-- MailRefused             43
    |   +-- AddressInUse            44
    |   +-- AlreadyServing          45
    |   +-- DeletionsHeld           46
    |   +-- MailTooLarge            47
    +-- RoleError                   50..59  who serves whom
    |   +-- NoSuchService           50
    |   +-- NothingToFailBack       51
    |   +-- ServiceNotNamed         52
    |   +-- NotYet                  53  (try again)
    |   +-- NobodyServes            54  (try again)
    |   +-- WrongServer             55
    |   +-- ModeRefused             56
    |   +-- ArbiterUnreachable      58  (try again)
    |   +-- ArbiterNotInstalled     59
    +-- MailError                   60..69  one mail that came in
    |   +-- MailGarbage             60
    |   +-- MailMisdirected         61
    |   +-- MailForged              62
    |   +-- MailNewer               63  (try again)
    |   +-- MailRepeated            64
    |   +-- MailStranger            65
    |   +-- MailReport              66
    +-- JournalError                70..79
    |   +-- JournalBroken           70
    +-- KeyFault                    80..89
    |   +-- KeyMissing              80
    |   +-- KeyExposed              81
    |   +-- KeyUnknown              82
    |   +-- KeyPresent              83
    +-- DemoFailed                  90

0 is done, 1 a bug in vmctl, 2 a command typed wrong. A code that is not in the table means failure.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VmctlError(Exception):
    """Something went wrong that vmctl has no name for."""

    exit_code: ClassVar[int] = 1
    retry: ClassVar[bool] = False
    hint: str = "this is a bug: please report it with the command and its output"

    def __init__(self, what: str, *, why: str = "", hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        if hint is not None:
            self.hint = hint

    @property
    def words(self) -> str:
        """What went wrong and why, in one line."""
        return f"{self.what} ({self.why})" if self.why else self.what

    def as_json(self) -> dict[str, Any]:
        """The error as the value that `--json` prints."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "retry": self.retry,
            "what": self.what,
            "why": self.why,
            "hint": self.hint,
        }


class ConfigError(VmctlError):
    """The configuration cannot be used."""

    exit_code = 10


class ConfigMissing(ConfigError):
    """No vmctl.yaml where it was looked for."""

    exit_code = 10
    hint = "name it with --config FILE or VMCTL_CONFIG, go to its directory, or make a network with 'vmctl init DIR'"


class ConfigFaults(ConfigError):
    """The vmctl.yaml has faults; all of them are listed."""

    exit_code = 11
    hint = "mend the keys that are named, then try again"

    def __init__(self, what: str, faults: list[dict[str, str]], **words: Any) -> None:
        super().__init__(what, **words)
        self.faults = faults

    def as_json(self) -> dict[str, Any]:
        """The error with its list of faults."""
        return {**super().as_json(), "faults": self.faults}


class NotEmpty(ConfigError):
    """The directory for a new network already holds something."""

    exit_code = 12
    hint = "name a directory that does not exist yet or is empty"


class ServerUnclear(ConfigError):
    """The command does not say which server it is about."""

    exit_code = 13
    hint = "say --server primary or --server secondary, or set VMCTL_SERVER"


class OutputClosed(ConfigError):
    """Nobody reads the standard output."""

    exit_code = 14
    hint = "run it again with an open standard output"


class NotEdited(ConfigError):
    """vmctl.yaml would have to be changed, and has a form that vmctl does not change."""

    exit_code = 15
    hint = "write by hand what is named"


class StoreError(VmctlError):
    """A store cannot be used."""

    exit_code = 20


class StoreMissing(StoreError):
    """The store's directory or its identity is not there: it may not be mounted."""

    exit_code = 20
    hint = (
        "mount it, or correct 'store' in vmctl.yaml; where it is to be a new one, run 'vmctl join'; "
        "nothing was created, read or deleted"
    )


class StoreForeign(StoreError):
    """The store belongs to another server or another network."""

    exit_code = 21
    hint = "correct 'store' in vmctl.yaml, or make a copy a store of this server with 'vmctl join'; nothing was changed"


class StoreNewer(StoreError):
    """The store was written by a newer vmctl."""

    exit_code = 22
    hint = "update vmctl on this machine; nothing was changed"


class StoreBusy(StoreError):
    """Another process kept the store locked for too long."""

    exit_code = 23
    retry = True
    hint = "try again; 'vmctl status' shows whether a daemon runs"


class DiskFull(StoreError):
    """There is no room left on the disk."""

    exit_code = 24
    retry = True
    hint = "make room, then try again; nothing was left half-written"


class IndexDamaged(StoreError):
    """The index of a store cannot be read, or is gone."""

    exit_code = 25
    hint = "run 'vmctl reindex': it sets the index aside and builds a new one from the files and the other server"


class StoreUnusable(StoreError):
    """The operating system refused to read or write the store."""

    exit_code = 26
    retry = True
    hint = "mend the disk, the mount or the permissions, then try again"


class StoreDamaged(StoreError):
    """The identity of a store cannot be read."""

    exit_code = 27
    hint = "put .vmctl/identity.json back from a backup; no recording is touched"


class StoreExchanged(StoreError):
    """The index or the identity of a store was replaced while it was in use."""

    exit_code = 28
    retry = True
    hint = "run the command again: it opens the store as it is now"


class SpoolFull(StoreError):
    """More has come of one kind than may wait to be read."""

    exit_code = 29
    retry = True
    hint = "nothing to do: what waits is read with the next turn of 'vmctl serve', or by 'vmctl sync'"


class RecordError(VmctlError):
    """One thing in a store cannot be used as asked."""

    exit_code = 30


class NotFound(RecordError):
    """The mailbox, message, greeting, callflow, prompt or setting is not there."""

    exit_code = 30
    hint = "the 'list' command beside this one shows what is there"


class AlreadyExists(RecordError):
    """Something of this name is there already."""

    exit_code = 31
    hint = "choose another name, or change the one that is there with 'set'"


class BadName(RecordError):
    """An extension, name or id has characters or a length that is not allowed."""

    exit_code = 32
    hint = "choose one of the form that is named"


class BadValue(RecordError):
    """A value has the wrong type, length or range."""

    exit_code = 33
    hint = "give a value as it is named, then try again"


class BadAudio(RecordError):
    """A recording is not audio that can be played, or is too long."""

    exit_code = 34
    hint = "give a WAV file (PCM) with at least one frame, or name its format under 'audio.formats' in vmctl.yaml"


class MailboxFull(RecordError):
    """The mailbox has reached its quota."""

    exit_code = 35
    hint = "delete messages, or raise the mailbox's quota with 'vmctl mailbox set EXT --quota N'"


class BrokenFile(RecordError):
    """A file in the store cannot be read as what it should be."""

    exit_code = 36
    hint = "mend the file: it stays as it is and is not shipped until then"


class CallflowFaults(RecordError):
    """A callflow of schema vmctl/1 has faults; all of them are listed."""

    exit_code = 37
    hint = "mend the nodes that are named, then try again"

    def __init__(self, what: str, faults: list[dict[str, str]], **words: Any) -> None:
        super().__init__(what, **words)
        self.faults = faults

    def as_json(self) -> dict[str, Any]:
        """The error with its list of faults."""
        return {**super().as_json(), "faults": self.faults}


class SyncError(VmctlError):
    """The two servers could not be brought or shown in step."""

    exit_code = 40


class PeerUnreachable(SyncError):
    """The peer does not answer."""

    exit_code = 40
    retry = True
    hint = "start it with 'vmctl serve' there, or check its 'address' in vmctl.yaml; what is pending is kept"


class MailPutOff(PeerUnreachable):
    """The peer's server does not take a sync mail now."""

    hint = "its words say why; it is tried again by itself, 'vmctl status' shows what waits, nothing is lost"


class PeerUntrusted(PeerUnreachable):
    """The other end of the link does not prove to be who vmctl.yaml says, or does not believe that of this server."""

    exit_code = 48
    hint = (
        "compare what 'vmctl keys fingerprint' prints on both hosts; if they agree somebody else answers there. "
        "Nothing was said to it"
    )


class LoginRefused(PeerUnreachable):
    """The mail server on the way does not let this server log in."""

    exit_code = 49
    hint = "correct 'relay.user' and the password in vmctl.yaml; what is pending is kept"


class NotInStep(SyncError):
    """The time ran out before both stores were in step."""

    exit_code = 41
    retry = True
    hint = "try again, with a longer --timeout; 'vmctl status' shows what is pending, nothing is lost"


class StoresDiffer(SyncError):
    """The two stores do not hold the same."""

    exit_code = 42
    hint = "run 'vmctl sync', then 'vmctl verify' again"


class MailRefused(SyncError):
    """The peer refused a sync mail for good."""

    exit_code = 43
    hint = "its reply says why; compare vmctl.yaml on both servers and the version of vmctl"


class AddressInUse(SyncError):
    """The receiver cannot listen on its address."""

    exit_code = 44
    hint = "stop what listens there, or change 'listen' in vmctl.yaml"


class AlreadyServing(SyncError):
    """Another daemon or sync runs on this store."""

    exit_code = 45
    hint = "one is enough: use the one that runs, or stop it first"


class DeletionsHeld(SyncError):
    """So much is gone from a store at once, or older than before, that it waits for a person's word."""

    exit_code = 46
    hint = (
        "put the files back, have the other server's again with 'vmctl reindex', "
        "or let it count with 'vmctl sync --accept-deletions'"
    )


class MailTooLarge(SyncError):
    """A server takes no sync mails of this size; `limit` is what it takes in bytes, if it says so."""

    exit_code = 47
    hint = "let the server at the peer's 'address' take mails of 64 kB at least"

    def __init__(self, what: str, limit: int | None = None, **words: Any) -> None:
        super().__init__(what, **words)
        self.limit = limit


class RoleError(VmctlError):
    """A role cannot move as ordered."""

    exit_code = 50


class NoSuchService(RoleError):
    """The config names no such service."""

    exit_code = 50
    hint = "'vmctl status' lists the services"


class NothingToFailBack(RoleError):
    """The service is served by its home already."""

    exit_code = 51
    hint = "nothing to do: 'vmctl status' shows who serves"


class ServiceNotNamed(RoleError):
    """There are two services and the order names none."""

    exit_code = 52
    hint = "say --service NAME or --all"


class NotYet(RoleError):
    """The order is kept, and waits for what is named."""

    exit_code = 53
    retry = True
    hint = "'vmctl status' shows what is awaited"


class NobodyServes(RoleError):
    """No server serves this now; `waiting_for` says what that waits for, where it is known."""

    exit_code = 54
    retry = True
    hint = "'vmctl status' shows what is awaited"

    def __init__(self, what: str, service: str = "", waiting_for: tuple[str, ...] = (), **words: Any) -> None:
        super().__init__(what, **{"why": "; ".join(f"it waits for {each}" for each in waiting_for), **words})
        self.service = service
        self.waiting_for = waiting_for

    def as_json(self) -> dict[str, Any]:
        """The error with the service and what it waits for."""
        return {**super().as_json(), "service": self.service, "waiting_for": list(self.waiting_for)}


class WrongServer(RoleError):
    """The other server serves this mailbox now: a change that its user makes belongs there."""

    exit_code = 55
    hint = "let the front end ask 'vmctl route EXT', and give the command at that server"

    def __init__(self, what: str, service: str = "", server: str = "", address: str = "", **words: Any) -> None:
        super().__init__(what, **words)
        self.service = service
        self.server = server
        self.address = address

    def as_json(self) -> dict[str, Any]:
        """The error with the service, and the name and address of the server that serves it."""
        return {**super().as_json(), "service": self.service, "server": self.server, "address": self.address}


class ModeRefused(RoleError):
    """The network cannot have this mode."""

    exit_code = 56
    hint = "'vmctl mode show' tells the present one"


class ArbiterUnreachable(RoleError):
    """The arbiter, which lends the services, gives no answer."""

    exit_code = 58
    retry = True
    hint = "start etcd, or check 'arbiter.endpoints' in vmctl.yaml; 'vmctl status' shows until when this server serves"


class ArbiterNotInstalled(RoleError):
    """The package with which the arbiter is asked is not installed."""

    exit_code = 59
    hint = "install it with pip install 'vmctl[etcd]', or take 'arbiter.endpoints' out of vmctl.yaml on both servers"


class MailError(VmctlError):
    """A mail that came in cannot be taken."""

    exit_code = 60
    smtp_reply: ClassVar[str] = "554 5.6.0"
    kind: ClassVar[str] = "garbage"  # under which it is counted


class MailGarbage(MailError):
    """The mail is not a sync mail, or a cut-off one."""

    exit_code = 60
    smtp_reply = "554 5.6.0"
    hint = "only vmctl's own mails belong here: see docs/sync-mail.md"


class MailMisdirected(MailError):
    """The mail is for another network or another server."""

    exit_code = 61
    smtp_reply = "550 5.1.1"
    kind = "misdirected"
    hint = "compare 'network' and 'servers' in vmctl.yaml on both servers"


class MailForged(MailError):
    """The mail's signature is not the peer's, or what it covers was altered."""

    exit_code = 62
    smtp_reply = "550 5.7.1"
    kind = "forged"
    hint = "compare 'public_key' in vmctl.yaml on both servers; if they agree somebody else wrote this mail"


class MailNewer(MailError):
    """The mail's format is newer than this vmctl."""

    exit_code = 63
    retry = True
    smtp_reply = "451 4.3.5"
    kind = "newer"
    hint = "update vmctl on this machine: the peer keeps the mail and tries again"


class MailRepeated(MailError):
    """The very mail has come before; it is taken as often as it comes, and changes nothing any more."""

    exit_code = 64
    smtp_reply = "550 5.7.1"
    kind = "repeated"
    hint = "nothing to do: mail servers deliver twice now and then; where it is much somebody plays old mails again"


class MailStranger(MailError):
    """A caller, a sender or a recipient that does not belong to the network."""

    exit_code = 65
    smtp_reply = "550 5.7.1"
    kind = "stranger"
    hint = "if it was the peer compare 'mail' and the keys in vmctl.yaml on both servers"


class MailReport(MailError):
    """A report of delivery (RFC 3464) on a mail that did not leave from here, or something else without a sender."""

    exit_code = 66
    smtp_reply = "550 5.7.1"
    kind = "report"
    hint = "nothing to do: somebody used this server's address as a sender"


class JournalError(VmctlError):
    """The journal of role transitions cannot be trusted."""

    exit_code = 70


class JournalBroken(JournalError):
    """A line of the journal was cut, edited, moved or removed."""

    exit_code = 70
    hint = (
        "'vmctl journal --verify' names the line; to go on, move journal*.jsonl aside, all of them: "
        "the roles are learnt from the peer"
    )


class KeyFault(VmctlError):
    """A key cannot be used."""

    exit_code = 80


class KeyMissing(KeyFault):
    """A private key is not where the config says."""

    exit_code = 80
    hint = "put the key file back from its backup, or correct 'key' in vmctl.yaml"


class KeyExposed(KeyFault):
    """A private key can be read by others."""

    exit_code = 81
    hint = "take the permission away with 'chmod 600 FILE'"


class KeyUnknown(KeyFault):
    """vmctl.yaml does not say yet who a server is."""

    exit_code = 82
    hint = "run 'vmctl join' on its host, and here 'vmctl keys trust' with the code that it prints"


class KeyPresent(KeyFault):
    """There are keys already, and the command would put others in their place."""

    exit_code = 83
    hint = "to replace keys that are in use there is 'vmctl keys rotate'"


class DemoFailed(VmctlError):
    """A step of the demo did not come true."""

    exit_code = 90
    hint = "run it with --keep DIR and look at the logs there"
