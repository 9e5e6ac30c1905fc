"""What the suites of the contract of a store's format share: two servers with stores of one layout, and a hand at each."""

import os

from hands import NativeHand
from wire import Wire

FORMATS = {"native": NativeHand}


class Pair(Wire):
    """Two servers whose stores are of one layout, with a hand at each."""

    def __init__(self, directory, hand):
        super().__init__(directory)
        self.hands = {name: hand(self.root(name)) for name in self.servers}
        self.hand = self.hands["primary"]
        self.store = self.a.store


def shown(path):
    """A path as a fault shows it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def there(pair, name="secondary"):
    """The messages of mailbox 2001 at a server."""
    return pair.messages("2001", name)
