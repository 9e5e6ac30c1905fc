"""A new network in an empty directory: two keys, two empty stores, and last the vmctl.yaml that makes it one."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any

from vmctl import config, durable, identity, keys
from vmctl.config import FILE, SERVERS, Address, Config
from vmctl.errors import NotEmpty
from vmctl.names import check_name
from vmctl.store.native import FOLDERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vmctl.keys import Public

ADDRESSES = {"primary": Address("127.0.0.1", 2525), "secondary": Address("127.0.0.1", 2526)}
_LONGEST_LABEL = 63  # RFC 1035, 2.3.4
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_NOT_IN_A_LABEL = re.compile(r"[^a-z0-9]+")


def make(
    directory: Path,
    *,
    network: str | None = None,
    mode: str = "active-standby",
    addresses: Mapping[str, Address] | None = None,
    settings: Mapping[str, Any] | None = None,
    only: str | None = None,
) -> Config:
    """Make a network with both servers on this host, or `only` one of them; without a name it gets the directory's.

    `settings` holds values of other keys of vmctl.yaml, by dotted path.

    Raises NotEmpty, BadName, ConfigFaults for a mode or addresses that do not fit, DiskFull or StoreUnusable; then the
    directory is again as it was.
    """
    here = SERVERS if only is None else (only,)
    network = _name_of(directory) if network is None else check_name(network, "name of a network")
    with _claimed(directory):
        public = {name: keys.generate(directory / "keys" / f"{name}.pem", name) for name in here}
        text = config.template(
            _values(network, mode, {**ADDRESSES, **(addresses or {})}, public) | dict(settings or {})
        )
        made = config.parse(text, directory / FILE)
        for name in here:
            for folder in FOLDERS:
                durable.make_directory(directory / name / folder)
            identity.create(directory / name, network, name)
        if not durable.create(directory / FILE, text.encode()):
            raise NotEmpty(f"somebody else put a {FILE} into {directory}")
    return made


@contextlib.contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """Hold an empty directory, and leave it as it was found when something goes wrong."""
    claimed = False
    with durable.disk_faults(directory):
        new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        try:
            _claim(directory)
            claimed = True
            yield
        except BaseException as error:
            if claimed:
                _clear(directory, but_config=isinstance(error, NotEmpty))
            for folder in new:
                with contextlib.suppress(OSError):  # not empty: somebody put a file there meanwhile
                    folder.rmdir()
            raise


def _claim(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise NotEmpty(f"{directory} is a file")
    durable.make_directory(directory)
    if found := sorted(entry.name for entry in directory.iterdir()):
        raise NotEmpty(f"{directory} is not empty", why=f"it holds {found[0]!r}")
    try:
        (directory / "keys").mkdir(mode=0o700)  # of two that make a network here at once, one gets past this
    except FileExistsError as error:
        raise NotEmpty(f"somebody else makes a network in {directory}") from error


def _clear(directory: Path, *, but_config: bool) -> None:
    if not but_config:
        (directory / FILE).unlink(missing_ok=True)
    for name in ("keys", *SERVERS):
        shutil.rmtree(directory / name, ignore_errors=True)


def _values(network: str, mode: str, addresses: Mapping[str, Address], public: Mapping[str, Public]) -> dict[str, Any]:
    domain = _NOT_IN_A_LABEL.sub("-", network.lower())[:_LONGEST_LABEL].strip("-")
    values: dict[str, Any] = {"network": network, "mode": mode}
    for name in SERVERS:
        server = {
            "listen": str(addresses[name]),
            "address": str(addresses[name]),
            "mail": f"vmsync@{name}.{domain}.invalid",  # RFC 2606: a domain that no mail server will ever look up
        }
        if name in public:
            server |= {"store": name, "key": f"keys/{name}.pem"}
            server |= {"public_key": public[name].identity, "seal_key": public[name].seal}
        values |= {f"servers.{name}.{part}": value for part, value in server.items()}
    values["servers.secondary.licensed"] = mode == "dual-active"
    homes = {"voicemail": "primary"} if mode == "active-standby" else {name: name for name in SERVERS}
    return values | {f"services.{service}.home": home for service, home in homes.items()}


def _name_of(directory: Path) -> str:
    return _NOT_IN_A_NAME.sub("-", directory.absolute().name).strip("-_")[:64] or "voicemail"
