"""A disk over real files that knows what a power cut would leave of them.

Every change of a file goes through the names of `vmctl.durable`, and every stat of a store through those of
`vmctl.store.native`; a Disk stands behind them while it is installed. It keeps for each name and each file what is
durable and what is only in the page cache. A name is durable by an fsync of its directory, bytes by an fsync of their
file. A rename is atomic, and lost unless its directory was synced. Inode numbers and times are simulated.

The index is not modelled: SQLite is trusted to keep what it committed.
"""

import contextlib
import errno
import os
from pathlib import Path

from steps import STEPS

from vmctl import durable
from vmctl.store import native

TICK_NS = 4_000_000  # how coarse the times of files are
LOOKS = ("_lstat", "_listed", "_names_in", "_peek")  # the names through which `vmctl.store.native` looks
NOT_MODELLED = ("index.db", "lock", "serve.lock")
FAULTS = {
    errno.ENOSPC: {"open", "write", "mkdir", "link", "commit"},
    errno.EIO: {"write", "fsync", "rename", "swap", "commit"},
    errno.EROFS: {"open", "write", "truncate", "rename", "swap", "link", "unlink", "mkdir", "rmdir", "commit"},
}


class Crash(BaseException):
    """The process of a server ends at this instruction."""


class Node:
    """A file or a folder. `names` are a folder's entries, `sure` those that are durable, `log` the changes in between."""

    __slots__ = ("bytes", "ctime", "dirty", "edition", "inode", "links", "log", "mtime", "names", "side", "sure")

    def __init__(self, side, inode, *, folder):
        self.side = side
        self.inode = inode
        self.mtime = self.ctime = side.now()
        self.names = {} if folder else None
        self.sure = {} if folder else None
        self.log = []
        self.links = 0
        self.dirty = False  # the bytes of the real file are not all durable
        self.bytes = None  # those that are, where the real file has others or is gone
        self.edition = 0


class Status:
    """What stat says, in simulated numbers."""

    __slots__ = ("st_ctime_ns", "st_dev", "st_ino", "st_mode", "st_mtime_ns", "st_size")

    def __init__(self, real, node):
        self.st_mode, self.st_size, self.st_dev = real.st_mode, real.st_size, real.st_dev
        self.st_ino, self.st_mtime_ns, self.st_ctime_ns = node.inode, node.mtime, node.ctime


class Change:
    """One change of names: effects on folders, all or none. `effects` are (folder, name, node or None)."""

    __slots__ = ("effects", "order")

    def __init__(self, order, effects):
        self.order, self.effects = order, effects


class Side:
    """The disk of one server: its clock, its durable steps, and what is wrong with it."""

    def __init__(self, name, root, clock):
        self.name, self.root, self.clock = name, Path(root), clock
        self.steps = 0
        self.crash_at = None
        self.dead = False
        self.fault = None  # the errno that every fitting step gets
        self.fault_steps = None  # for so many steps; None: until it is mended
        self.unreadable = {}  # folder -> what of it fails: `list`, `stat`
        self.then = {}  # at a step somebody else does something
        self.hit = 0

    def now(self):
        """The time that a file gets now, in ns."""
        return self.clock.wall() * 1000 // TICK_NS * TICK_NS

    def step(self, what):
        """One durable step of the product: where it may crash or be refused. Tells whether to crash half way."""
        if self.dead:
            raise Crash
        self.steps += 1
        self.clock.pass_time(0.00004)
        act = self.then.pop(self.steps, None)
        if act is not None:
            act()
        if self.crash_at is not None and self.steps >= self.crash_at:
            self.dead = True
            return True
        if self.fault is not None and what in FAULTS[self.fault]:
            self.hit += 1
            if self.fault_steps is not None:
                self.fault_steps -= 1
                if self.fault_steps < 0:
                    self.fault = self.fault_steps = None
                    return False
            raise OSError(self.fault, os.strerror(self.fault))
        return False

    def mend(self):
        """Nothing is wrong with the disk any more."""
        self.fault = self.fault_steps = self.crash_at = None
        self.dead = False
        self.then.clear()


class Disk:
    """The disks of all servers. Use `installed()` around everything that is to go through it."""

    def __init__(self):
        self._nodes = {}  # by real inode number
        self._order = 0
        self._inode = 100
        self._hand = 0  # within a change that a person makes: it is no step of the product

    @contextlib.contextmanager
    def installed(self):
        """Stand behind the names of `vmctl.durable` and `vmctl.store.native`."""
        names = {
            durable: STEPS,
            native: LOOKS,
        }
        former = [(room, name, getattr(room, name)) for room, those in names.items() for name in those]
        try:
            for room, name, real in former:
                if real in _REAL:  # a planted fault stays in its place
                    setattr(room, name, getattr(self, name.lstrip("_")))
            yield self
        finally:
            for room, name, real in former:
                setattr(room, name, real)

    @contextlib.contextmanager
    def by_hand(self):
        """What happens within is the work of a person or an application: no step, and never refused."""
        self._hand += 1
        try:
            yield self
        finally:
            self._hand -= 1

    # Taking over what is there

    def adopt(self, side, root=None, looks=None):
        """Take the tree of a side as it is, all of it durable; `looks` gives mtime, ctime, inode by relative path."""
        root = Path(root or side.root)
        self._adopt(side, root, root, looks or {})

    def _adopt(self, side, root, place, looks):
        node = self._new(side, place, folder=True)
        self._dress(node, looks.get(place.relative_to(root).as_posix()))
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if entry.name.startswith(NOT_MODELLED) and place.name == native.STATE:
                continue
            if entry.is_dir(follow_symlinks=False):
                inner = self._adopt(side, root, place / entry.name, looks)
            else:
                inner = self._nodes.get(entry.inode())
                if inner is None or not inner.links or inner.side is not side:
                    inner = self._new(side, place / entry.name, folder=False)
                    self._dress(inner, looks.get((place / entry.name).relative_to(root).as_posix()))
            inner.links += 1
            node.names[entry.name] = node.sure[entry.name] = inner
        return node

    @staticmethod
    def _dress(node, look):
        if look is not None:
            mtime, ctime, inode = look
            node.mtime, node.ctime, node.inode = mtime, ctime or node.ctime, inode or node.inode

    def _new(self, side, place, *, folder):
        self._inode += 1
        node = Node(side, self._inode, folder=folder)
        self._nodes[os.lstat(place).st_ino] = node
        return node

    def forget(self, root):
        """Forget a tree that is about to be removed for good."""
        for path, node in self.tree(root):
            if node.names is None:
                node.links = 0
            self._nodes.pop(os.lstat(path).st_ino, None)
        self._nodes.pop(os.lstat(root).st_ino, None)

    def looks(self, root):
        """mtime, ctime and inode of everything, by relative path: for a snapshot."""
        root = Path(root)
        found = {
            path.relative_to(root).as_posix(): (node.mtime, node.ctime, node.inode) for path, node in self.tree(root)
        }
        node = self._nodes[os.lstat(root).st_ino]
        return found | {".": (node.mtime, node.ctime, node.inode)}

    def tree(self, root):
        """Path and node of everything below a folder, folders first."""
        node = self._at(root)
        for name in sorted(node.names) if node else ():
            inner = node.names[name]
            yield Path(root) / name, inner
            if inner.names is not None:
                yield from self.tree(Path(root) / name)

    # The names of vmctl.durable

    def open(self, path, flags, mode=0o777, **how):
        """`os.open`; making a file is a step."""
        folder = self._above(path)
        if folder is None or not flags & os.O_CREAT or Path(path).name in folder.names:
            return os.open(path, flags, mode, **how)
        self._step(folder.side, "open")
        fd = os.open(path, flags, mode, **how)
        node = self._new(folder.side, path, folder=False)
        node.dirty, node.bytes = True, b""
        self._named([(folder, Path(path).name, node)])
        return fd

    def write(self, fd, data):
        """The durable module's write: all of `data`."""
        node = self._of(fd)
        if node is not None:
            half = self._step(node.side, "write", half=True)
            self._touch(node, fd)
            if half:
                _REAL_WRITE(fd, data[: len(data) // 2])
                raise Crash
        _REAL_WRITE(fd, data)

    def truncate(self, fd, size):
        """`os.ftruncate`."""
        node = self._of(fd)
        if node is not None:
            self._step(node.side, "truncate")
            self._touch(node, fd)
        os.ftruncate(fd, size)

    def fsync(self, fd):
        """`os.fsync`: what the file or the folder holds now is durable."""
        node = self._of(fd)
        if node is None:
            return
        self._step(node.side, "fsync")
        if node.names is None:
            node.dirty, node.bytes = False, None
        else:
            for change in list(node.log):
                self._settle(change)

    def sync(self):
        """`os.sync`: everything is durable."""
        for node in list(self._nodes.values()):
            node.dirty, node.bytes = False, None
            for change in list(node.log):
                self._settle(change)

    def syncfs(self, fd):
        """Everything of this server's disk is durable, as by `syncfs`."""
        node = self._of(fd)
        if node is None:
            return
        self._step(node.side, "fsync")
        for other in [one for one in self._nodes.values() if one.side is node.side]:
            other.dirty, other.bytes = False, None
            for change in list(other.log):
                self._settle(change)

    def rename(self, source, target):
        """`os.rename`."""
        old, new = self._above(source), self._above(target)
        if old is None or new is None:
            os.rename(source, target)
            return
        self._step(new.side, "rename")
        node = old.names.get(Path(source).name)
        replaced = new.names.get(Path(target).name)
        if replaced is not None and replaced is not node:
            self._leave(replaced, target)
        os.rename(source, target)
        if node is None or node is replaced:
            return
        node.ctime = node.side.now()
        node.links -= 1
        self._named([(old, Path(source).name, None), (new, Path(target).name, node)])

    def rename_free(self, source, target):
        """The same where nothing has the name yet."""
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        self.rename(source, target)

    def swap(self, one, other):
        """The exchange of two names: both or none."""
        here, there = self._above(one), self._above(other)
        if here is None or there is None:
            _REAL_SWAP(one, other)
            return
        self._step(there.side, "swap")
        _REAL_SWAP(one, other)
        mine, theirs = here.names[Path(one).name], there.names[Path(other).name]
        for node in (mine, theirs):
            node.ctime = node.side.now()
            node.links -= 1
        self._named([(here, Path(one).name, theirs), (there, Path(other).name, mine)])

    def link(self, source, target):
        """`os.link`."""
        folder, above = self._above(target), self._above(source)
        if folder is None or above is None:
            os.link(source, target)
            return
        self._step(folder.side, "link")
        os.link(source, target)
        node = above.names[Path(source).name]
        node.ctime = node.side.now()
        self._named([(folder, Path(target).name, node)])

    def unlink(self, path):
        """`os.unlink`."""
        folder = self._above(path)
        if folder is None or Path(path).name not in folder.names:
            os.unlink(path)
            return
        self._step(folder.side, "unlink")
        node = folder.names[Path(path).name]
        self._leave(node, path)
        os.unlink(path)
        node.ctime = node.side.now()
        self._named([(folder, Path(path).name, None)])

    def mkdir(self, path, mode=0o777):
        """`os.mkdir`."""
        folder = self._above(path)
        if folder is None:
            os.mkdir(path, mode)
            return
        self._step(folder.side, "mkdir")
        os.mkdir(path, mode)
        self._named([(folder, Path(path).name, self._new(folder.side, path, folder=True))])

    def rmdir(self, path):
        """`os.rmdir`."""
        folder = self._above(path)
        if folder is None or Path(path).name not in folder.names:
            os.rmdir(path)
            return
        self._step(folder.side, "rmdir")
        real = os.lstat(path).st_ino
        os.rmdir(path)
        self._nodes.pop(real, None)
        folder.names[Path(path).name].links -= 1
        self._named([(folder, Path(path).name, None)])

    # The names of vmctl.store.native

    def lstat(self, path):
        """`os.lstat` in simulated numbers."""
        real = os.lstat(path)
        node = self._nodes.get(real.st_ino)
        if node is not None and "stat" in node.side.unreadable.get(os.path.dirname(path), ()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real if node is None else Status(real, node)

    peek = lstat

    def listed(self, folder):
        """Names and stats of a folder."""
        node = self._at(folder)
        if node is not None and "list" in node.side.unreadable.get(str(folder), ()):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries if native._ours(entry.name)]
        return [
            (name, Status(real, self._nodes[real.st_ino]) if real.st_ino in self._nodes else real)
            for name, real in sorted(found)
        ]

    def names_in(self, folder):
        """Names in a folder."""
        return [name for name, _ in self.listed(folder)]

    # A power cut

    def power_cut(self, side, chance):
        """Everything that was not synced is lost or not, each by itself; gives how many changes were lost."""
        mood = chance.choice((0.0, 0.5, 0.5, 0.9, 1.0))  # how much survives
        root = self._nodes[os.lstat(side.root).st_ino]
        before = dict(self._files(side.root, root, sure=False))
        logs = {change.order: change for node in self._folders(root) for change in node.log}
        lost = 0
        for _, change in sorted(logs.items()):
            survives = chance.random() < mood
            lost += not survives
            self._settle(change, survives=survives)
        for node in before.values():
            if node.dirty:
                lost += 1
        after = dict(self._files(side.root, root, sure=True))
        here, stays = {node: path for path, node in before.items()}, set()
        for path, node in after.items():
            if before.get(path) is node:
                stays.add(node)
        contents = {}
        for node in after.values():
            if node.names is not None or node in contents or (node in stays and not node.dirty):
                continue
            if node.dirty:
                contents[node] = self._surviving(node, here.get(node), chance, mood)
            else:
                contents[node] = here[node].read_bytes() if node in here else node.bytes or b""
        self._materialise(side, root, before, after, contents)
        return lost

    @staticmethod
    def _surviving(node, here, chance, mood):
        """The bytes of a file that was written and not synced, after a power cut."""
        new = here.read_bytes() if here is not None else b""
        old = node.bytes or b""
        kind = chance.choices(("old", "new", "prefix", "zeros", "empty"), (4 - 3 * mood, 4 * mood + 0.1, 1, 1, 1))[0]
        cut = chance.randrange(len(new) + 1)
        return {"old": old, "new": new, "prefix": new[:cut], "zeros": bytes(len(new)), "empty": b""}[kind]

    def _materialise(self, side, root, before, after, contents):
        for path in sorted(before, reverse=True):
            node = before[path]
            if after.get(path) is not node or node in contents:
                if node.names is None:
                    os.unlink(path)
                elif after.get(path) is None:
                    _rmtree(path)
        made = {
            node: path
            for path, node in after.items()
            if node.names is None and before.get(path) is node and node not in contents
        }
        for path in sorted(after):
            node = after[path]
            if node.names is not None:
                if not path.is_dir():
                    path.mkdir(mode=0o700)
            elif node in made:
                if made[node] != path and not path.exists():
                    os.link(made[node], path)
            else:
                path.write_bytes(contents[node])
                made[node] = path
            self._nodes[os.lstat(path).st_ino] = node
        for node in {root, *after.values()}:
            node.log = []
            node.dirty, node.bytes = False, None
            if node.names is not None:
                node.names = dict(node.sure)
            node.links = 0
            node.edition += 1
        for node in {root, *after.values()}:
            for inner in (node.names or {}).values():
                inner.links += 1
        side.mend()

    def _files(self, place, node, *, sure):
        for name, inner in sorted((node.sure if sure else node.names).items()):
            yield Path(place) / name, inner
            if inner.names is not None:
                yield from self._files(Path(place) / name, inner, sure=sure)

    def _folders(self, root):
        """Every folder that has a name now, or had one."""
        seen, open_ = {root}, [root]
        while open_:
            node = open_.pop()
            changes = [other for change in node.log for folder, _, other in change.effects for other in (folder, other)]
            for inner in [*node.names.values(), *node.sure.values(), *changes]:
                if inner is not None and inner.names is not None and inner not in seen:
                    seen.add(inner)
                    open_.append(inner)
        return sorted(seen, key=lambda node: node.inode)

    # Inner works

    def _named(self, effects):
        self._order += 1
        change = Change(self._order, effects)
        for folder, name, node in effects:
            if node is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = node
                node.links += 1
            folder.mtime = folder.ctime = folder.side.now()
            if not folder.log or folder.log[-1] is not change:
                folder.log.append(change)

    def _settle(self, change, *, survives=True):
        """A change becomes durable, and with it the earlier ones of the same names; or it is lost."""
        for folder, name, _ in change.effects if survives else ():
            for earlier in list(folder.log):
                if earlier.order < change.order and any(f is folder and n == name for f, n, _ in earlier.effects):
                    self._settle(earlier)
        for folder, name, node in change.effects:
            if change in folder.log:
                folder.log.remove(change)
            if not survives:
                continue
            if node is None:
                folder.sure.pop(name, None)
            else:
                folder.sure[name] = node

    def _touch(self, node, fd):
        """A file is about to get other bytes: those that are durable are remembered."""
        if not node.dirty:
            node.bytes = Path(f"/proc/self/fd/{fd}").read_bytes()
            node.dirty = True
        node.mtime = node.ctime = node.side.now()
        node.edition += 1

    def _leave(self, node, path):
        """A name of a file goes: with the last one its bytes would be lost."""
        node.links -= 1
        if node.links <= 0 and node.names is None:
            if not node.dirty:
                node.bytes = Path(path).read_bytes()
            self._nodes.pop(os.lstat(path).st_ino, None)

    def _step(self, side, what, *, half=False):
        if self._hand:
            return False
        crash = side.step(what)
        if crash and not half:
            raise Crash
        return crash

    def _of(self, fd):
        return self._nodes.get(os.fstat(fd).st_ino)

    def _at(self, path):
        return self._nodes.get(os.lstat(path).st_ino)

    def _above(self, path):
        try:
            return self._nodes.get(os.stat(os.path.dirname(path)).st_ino)
        except FileNotFoundError:
            return None

    # What people and applications do to files

    def put(self, path, data, how="replace", *, sync=True, mtime=None):
        """Write a file as an editor does: `replace` by rename, `inplace`, or a plain `new` one."""
        path = Path(path)
        with self.by_hand():
            target = path.with_name(f".{path.name}.swp") if how == "replace" else path
            fd = self.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                self.truncate(fd, 0)
                self.write(fd, data)
                if sync:
                    self.fsync(fd)
            finally:
                os.close(fd)
            if how == "replace":
                self.rename(target, path)
            node = self._at(path)
            if mtime is not None and node is not None:
                node.mtime = mtime
            if sync:
                self.sync_folder(path.parent)

    def sync_folder(self, folder):
        """Fsync of a folder by hand."""
        with self.by_hand():
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self.fsync(fd)
            finally:
                os.close(fd)

    def take_away(self, path, *, sync=False):
        """Remove a file as `rm` does."""
        with self.by_hand():
            self.unlink(path)
            if sync:
                self.sync_folder(Path(path).parent)

    def make_folder(self, path):
        """`mkdir -p` by hand, synced."""
        path = Path(path)
        if not path.is_dir():
            self.make_folder(path.parent)
            with self.by_hand():
                self.mkdir(path)
                self.sync_folder(path.parent)

    def edition(self, path):
        """Changes whenever the bytes of a file may have: (inode, count); None where there is none."""
        try:
            node = self._at(path)
        except OSError:
            return None
        return None if node is None else (node.inode, node.edition)


def _rmtree(path):
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    os.rmdir(path)


_REAL_WRITE, _REAL_SWAP = durable._write, durable._swap
_REAL = {getattr(durable, name) for name in STEPS} | {getattr(native, name) for name in LOOKS}
