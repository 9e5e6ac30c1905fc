"""Where acts are entered."""

ACTS = {}


class Deed:
    """An act, how often it comes, and the kind of trouble that it belongs to."""

    def __init__(self, do, kind, weight):
        self.do, self.kind, self.weight = do, kind, weight
        self.name = do.__name__


def act(kind, weight=1.0):
    """Register an act."""

    def register(do):
        ACTS[do.__name__] = Deed(do, kind, weight)
        return do

    return register
