"""A story that a process lives through until it is killed: two servers, and what it was promised on the way."""

import json
import os

from wire import Wire, tone

from vmctl.audio import digest_of
from vmctl.model import greeting_key, message_key
from vmctl.parked import OUT, listing

NARROW = {"mail.max": "64kB", "limits.document": "4kB"}


class Story(Wire):
    """Both servers in one process. Each promise leaves the process at once, through a pipe, so that it outlives it.

    A promise is a key, a field of its document (None: the record itself), a value, the server that gave it, and how far
    the clocks had been moved on by then.
    """

    def __init__(self, directory, pipe, settings=None):
        self._pipe = pipe
        self._said = 0
        super().__init__(directory, settings)

    def holds(self, key, field=None, value=True, at="primary"):
        """It was accepted: from now on this must hold, at that server after its next start, later on both."""
        os.write(self._pipe, json.dumps([key, field, value, at, self.clock.ahead]).encode() + b"\n")

    def begins(self, *keys, field=None):
        """Something is under way with these records: until the next promise they may be as before or as after."""
        for key in keys:
            self.holds(key, field, None)

    def recording(self, **how):
        """A recording that is like no other."""
        self._said += 1
        return tone(self.directory / f"said-{self._said}.wav", **how)

    # What most stories do, with its promises

    def leave(self, name="primary", extension="2001", audio=None, **how):
        """Leave a message; its id."""
        source = audio or self.recording(**how)
        ident = self.desk(name).leave(extension, source)
        self.holds(message_key(extension, ident), "sha256", digest_of(source)[0], name)
        return ident

    def delete(self, ident, name="primary", extension="2001"):
        """Delete a message."""
        key = message_key(extension, ident)
        self.begins(key)
        self.begins(key, field="sha256")
        self.desk(name).delete_message(extension, ident)
        self.holds(key, None, False, name)

    def restore(self, ident, name="primary", extension="2001"):
        """Restore a message."""
        key = message_key(extension, ident)
        self.begins(key)
        self.desk(name).restore_message(extension, ident)
        self.holds(key, None, True, name)

    def mark(self, ident, status, name="primary", extension="2001"):
        """Mark a message."""
        key = message_key(extension, ident)
        self.begins(key, field="status")
        self.desk(name).mark(extension, ident, status)
        self.holds(key, "status", status, name)

    def rename(self, person, name="primary", extension="2001"):
        """Give a mailbox another name."""
        key = f"mailbox/{extension}"
        self.begins(key, field="name")
        self.desk(name).set_mailbox(extension, {"name": person})
        self.holds(key, "name", person, name)

    def greet(self, extension, greeting, name="primary"):
        """Put a greeting into a mailbox; the digest of its recording."""
        key, source = greeting_key(extension, greeting), self.recording()
        digest = digest_of(source)[0]
        self.begins(key, field="sha256")
        self.desk(name).set_greeting(extension, greeting, source)
        self.holds(key, "sha256", digest, name)
        return digest

    def ship(self, name="primary", **how):
        """What a server has to say arrives in the spool of the other one."""
        self.send(name, **how)
        self.deliver(take=False)


def try_parked_again(wire):
    """A person has everything tried again that was refused for good; tells how much that was."""
    parked = [
        (replica, one["id"])
        for replica in wire.servers.values()
        for one in listing(replica.index, replica.spool)
        if one["direction"] == OUT
    ]
    for replica, ident in parked:
        replica.lot.retry(ident)
    return len(parked)
