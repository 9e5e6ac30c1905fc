"""How one value of vmctl.yaml is written and what it means: durations, sizes, names, addresses, keys, paths.

Each Kind says in words how a value is written, for the reader of a fault and of the docs, and reads it from what YAML
gave. Inside, durations are float seconds and sizes are int bytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.clock import parse_duration, parse_rfc3339
from vmctl.keys import parse_public, parse_seal
from vmctl.names import is_extension, is_name

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,12})\s*([kMG]B|[KMG]iB|B)")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%a-z]{2,60})\]|(?P<host>[^\[\]:]{1,253})):(?P<port>[0-9]{1,5})")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MAIL = re.compile(
    rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*"
)  # RFC 5321, 4.1.2
_URL = re.compile(rf"https?://(?:\[[0-9A-Fa-f:.]{{2,60}}\]|{_HOST.pattern})(?::[0-9]{{1,5}})?(?:/[!-~]{{0,1000}})?")
_AUDIO_FORMAT = re.compile(r"[a-z0-9]{1,8}")
_HIGHEST_PORT = 65_535
_LONGEST_WORD = 32
_LONGEST_USER = 255
NOWHERE = "none"


class Address(NamedTuple):
    """A host name or IP address and a TCP port; as text `host:port`, with an IPv6 address in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        """The form that vmctl.yaml holds."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Kind(NamedTuple):
    """How a value is written, in words and in short, and its reader, which raises ValueError with what is wrong."""

    words: str
    short: str
    read: Callable[[Any], Any]


def parse_address(text: str) -> Address:
    """The address written as `host:port` or `[IPv6]:port`. Raises ValueError for anything else."""
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise ValueError(f"{_shown(text)} is not a host, ':' and a port")
    if not 1 <= (port := int(match["port"])) <= _HIGHEST_PORT:
        raise ValueError(f"{port} is no port")
    if match["six"]:
        import ipaddress

        return Address(str(ipaddress.IPv6Address(match["six"])), port)
    if not _HOST.fullmatch(match["host"]):
        raise ValueError(f"{_shown(match['host'])} is no host name")
    return Address(match["host"], port)


def parse_size(text: str) -> int:
    """Bytes of a size such as `500kB`, `16MB` or `16MiB`. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{_shown(text)} is no size such as 500kB or 16MB")
    return int(match[1]) * _SIZES[match[2]]


def one_of(*words: str) -> Kind:
    """One of a few words."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{_shown(value)} is none of them")
        return str(value)

    listed = ", ".join(words[:-1]) + " or " + words[-1]
    return Kind(f"one of {listed}", listed, read)


def duration(low: str, high: str) -> Kind:
    """A time with its unit, `low` and `high` included; read as seconds."""
    bottom, top = parse_duration(low), parse_duration(high)

    def read(value: Any) -> float:
        seconds = parse_duration(_word(value, "a unit, such as s or m"))
        if not bottom <= seconds <= top:
            raise ValueError(f"{value} is out of this range")
        return seconds

    return Kind(f"a duration from {low} to {high}, with ms, s, m, h or d", f"{low} to {high}", read)


def size(low: str, high: str) -> Kind:
    """A number of bytes with its unit, `low` and `high` included."""
    bottom, top = parse_size(low), parse_size(high)

    def read(value: Any) -> int:
        count = parse_size(_word(value, "a unit, such as kB or MB"))
        if not bottom <= count <= top:
            raise ValueError(f"{value} is out of this range")
        return count

    return Kind(f"a size from {low} to {high}, with B, kB, MB, GB, KiB, MiB or GiB", f"{low} to {high}", read)


def whole(low: int, high: int) -> Kind:
    """A whole number, `low` and `high` included."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{_shown(value)} is no such number")
        return value

    return Kind(f"a whole number from {low} to {high}", f"{low} to {high}", read)


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is neither")  # noqa: TRY004 - one error for every fault of a value
    return value


def _read_name(value: Any) -> str:
    text = _name_text(value)
    if not is_name(text):
        raise ValueError(f"{_shown(text)} is no name")
    return text


def _read_path(value: Any) -> Path:
    text = _text(value)
    if not text or not text.isprintable():
        raise ValueError(f"{_shown(text)} is no path")
    if text.startswith("~"):
        raise ValueError("'~' is not expanded here")
    return Path(text)


def _read_mail(value: Any) -> str:
    text = _text(value)
    if not _MAIL.fullmatch(text):
        raise ValueError(f"{_shown(text)} is no such address")
    return text


def _read_url(value: Any) -> str:
    text = _text(value)
    if not _URL.fullmatch(text):
        raise ValueError(f"{_shown(text)} is no such URL")
    return text


def _read_prefix(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"/[!-~]{1,200}", text):
        raise ValueError(f"{_shown(text)} is no such path")
    return text.rstrip("/")


def _read_urls(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} is no list")  # noqa: TRY004
    return tuple(dict.fromkeys(map(_read_url, value)))


def _read_addresses(value: Any) -> tuple[Address, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} is no list")  # noqa: TRY004
    return tuple(dict.fromkeys(parse_address(_text(item)) for item in value))


def _read_command(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{_shown(value)} is no list of words")
    words = tuple(map(_name_text, value))
    if not words[0] or any("\0" in word for word in words):
        raise ValueError("its first word names no program")
    return words


def _read_public_key(value: Any) -> str:
    text = _text(value)
    parse_public(text)
    return text


def _read_seal_key(value: Any) -> str:
    text = _text(value)
    parse_seal(text)
    return text


def _read_listen(value: Any) -> Address | None:
    return None if value == NOWHERE else parse_address(_text(value))


def _read_time(value: Any) -> int:
    try:
        return parse_rfc3339(_text(value))
    except OverflowError as error:
        raise ValueError(f"{_shown(value)} is no such time") from error


def _read_variable(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text):
        raise ValueError(f"{_shown(text)} is no such name")
    return text


def _read_user(value: Any) -> str:
    text = _name_text(value)
    if not text or len(text) > _LONGEST_USER or not text.isprintable():
        raise ValueError(f"{_shown(text)} is no such name")
    return text


def _listed(words: str, short: str, allowed: Callable[[str], bool], least: int = 0) -> Kind:
    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{_shown(value)} is no list")  # noqa: TRY004
        if len(value) < least:
            raise ValueError("the list is empty")
        items: dict[str, None] = {}
        for item in map(_name_text, value):
            if not allowed(item):
                raise ValueError(f"{_shown(item)} is not allowed in it")
            if item in items:
                raise ValueError(f"{_shown(item)} stands in it twice")
            items[item] = None
        return tuple(items)

    return Kind(words, short, read)


def _name_text(value: Any) -> str:
    # 201 without quotes is a number to YAML; 0201 comes as a string already, so that no digit is lost
    return str(value) if type(value) is int else _text(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no text")  # noqa: TRY004
    return value


def _word(value: Any, missing: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"{value} lacks {missing}")  # noqa: TRY004
    if len(_text(value)) > _LONGEST_WORD:
        raise ValueError(f"{_shown(value)} is too long")
    return str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."  # noqa: PLR2004 - a line of a terminal


_NAME_WORDS = "1 to 64 letters, digits, '-' or '_', the first a letter or digit"
NAME = Kind(_NAME_WORDS, "letters, digits, '-' and '_'", _read_name)
BOOL = Kind("true or false", "true or false", _read_bool)
PATH = Kind("a path, from the directory of vmctl.yaml if it is relative", "a path, from here if relative", _read_path)
ADDRESS = Kind(
    "host:port, with an IPv6 address in brackets",
    "host:port or [IPv6]:port",
    lambda value: parse_address(_text(value)),
)
ADDRESSES = Kind("a list of addresses, each host:port", "a list of host:port", _read_addresses)
URL = Kind("a URL, http:// or https://", "http:// or https://", _read_url)
URLS = Kind("a list of URLs, each http:// or https://", "a list of URLs", _read_urls)
COMMAND = Kind(
    "a list of words, a program and its arguments; no shell reads them", "a list of words, no shell", _read_command
)
PREFIX = Kind("a path such as /vmctl, of printable characters", "such as /vmctl", _read_prefix)
MAIL = Kind("a plain mail address, name@domain", "name@domain", _read_mail)
PUBLIC_KEY = Kind("'ed25519:' and the base64 of 32 bytes", "as 'vmctl keys' prints it", _read_public_key)
SEAL_KEY = Kind("'mlkem768-x25519:' and the base64 of 1216 bytes", "as 'vmctl keys' prints it", _read_seal_key)
LISTEN = Kind("host:port, with an IPv6 address in brackets, or none", "host:port, [IPv6]:port or none", _read_listen)
TIME = Kind("a time in RFC 3339, in quotes", "a time in RFC 3339", _read_time)
VARIABLE = Kind("the name of an environment variable", "a name such as VMCTL_RELAY_PASSWORD", _read_variable)
USER = Kind("a name of at most 255 printable characters", "a name", _read_user)
NAMES = _listed(f"a list of names, each {_NAME_WORDS}", "a list of names", is_name)
EXTENSIONS = _listed(
    "a list of extensions, each 1 to 32 letters, digits, '-' or '_', the first a letter or digit",
    "a list of extensions",
    is_extension,
)
AUDIO_FORMATS = _listed(
    "a list of at least one format, each 1 to 8 lower-case letters or digits",
    "a list of file name endings",
    lambda item: _AUDIO_FORMAT.fullmatch(item) is not None,
    least=1,
)
