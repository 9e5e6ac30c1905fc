"""The frame of the command line: the table of commands, each imported when it is run, and the end of every error.

The commands of a module are its attributes: a function is a command of its name, a Typer a group of commands.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, NoReturn, cast, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.exceptions import TyperException
from typer.main import get_command

from vmctl import __version__
from vmctl.cli import output
from vmctl.cli.session import Session
from vmctl.errors import OutputClosed, VmctlError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

DEBUG_VARIABLE = "VMCTL_DEBUG"
_USAGE, _TRY_AGAIN = 2, 75  # EX_TEMPFAIL of sysexits.h


class Command(NamedTuple):
    """Where a command is, and what it is for in one line."""

    module: str
    line: str


COMMANDS: dict[str, dict[str, Command]] = {
    "Begin": {
        "init": Command("network", "Make a network: a config, keys and two empty stores."),
        "keys": Command("keys", "Who belongs to the network: show, trust, rotate, retire keys."),
        "join": Command("joining", "Make a directory a store of its server: a second host, a new disk."),
        "demo": Command("demo", "Show it all on this machine: failover, recovery, failback."),
    },
    "See": {
        "status": Command("roles", "Who serves whom, what is pending, are the stores in step."),
        "route": Command("routes", "Which server is to be used for an extension or a trunk."),
        "journal": Command("journal", "What moved the roles, and when."),
        "diff": Command("sync", "What would be shipped."),
        "conflicts": Command("conflicts", "What lost when two edits met: list, show, take, drop."),
        "history": Command("history", "Earlier versions: list, show, diff, restore."),
        "parked": Command("parked", "What was refused for good: list, show, retry, drop."),
        "verify": Command("sync", "Prove the two stores equal, or name what differs."),
    },
    "Run": {
        "serve": Command("roles", "The daemon of a server."),
        "receive": Command("receiving", "Take one mail from a mail server's pipe."),
        "sync": Command("sync", "One round of synchronization."),
        "failover": Command("ordering", "Let the other server serve."),
        "failback": Command("ordering", "Let the home server serve again."),
        "pause": Command("agreeing", "Let no role move by itself, for maintenance."),
        "resume": Command("agreeing", "Let roles move by themselves again."),
        "mode": Command("agreeing", "One server for all callers, or each for its own: show, set."),
        "housekeeping": Command("housekeeping", "Delete and purge what is due for its age, now."),
        "reindex": Command("joining", "Build a lost or damaged index anew."),
    },
    "Manage a store": {
        "mailbox": Command("mailboxes", "Mailboxes: create, set, list, show, delete, restore, renumber."),
        "message": Command("messages", "Messages: leave, list, show, mark, delete, restore, export."),
        "greeting": Command("greetings", "Greetings of a mailbox: set, list, export, delete."),
        "prompt": Command("prompts", "Prompts of callflows: set, list, export, delete."),
        "callflow": Command("callflows", "Callflows: set, list, show, check, delete."),
        "settings": Command("settings", "Settings of the store: show, set, unset."),
    },
}


def run(words: list[str]) -> int:
    """Run the command that the words are; the exit code."""
    try:
        get_command(app).main(words, prog_name="vmctl")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        # a mail server returns the mail for any code that it does not know: a slip in its config must not do that
        return _TRY_AGAIN if code == _USAGE and "receive" in words else code
    return 0


class _Lazy(Mapping[str, Any]):
    """The commands by name; a command's module is imported when the command is asked for."""

    def __init__(self) -> None:
        self._table = {name: command for part in COMMANDS.values() for name, command in part.items()}

    def __getitem__(self, name: str) -> Any:
        module = importlib.import_module(f"vmctl.cli.{self._table[name].module}")
        found = getattr(module, name)
        if not isinstance(found, typer.Typer):
            function, found = found, _typer()
            found.command(name)(function)
        command = get_command(found)
        command.name = name
        return _with_shared_options(command)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class _Root(TyperGroup):
    """`vmctl` itself: every error of a command ends here."""

    def __init__(self, **words: Any) -> None:
        super().__init__(**words)
        self.commands = cast("MutableMapping[str, Any]", _Lazy())  # nobody adds a command to it
        _with_shared_options(self)

    def make_context(self, *words: Any, **options: Any) -> Any:
        with _told(None):
            return super().make_context(*words, **options)

    def invoke(self, ctx: Any) -> Any:
        with _told(ctx):
            super().invoke(ctx)
            sys.stdout.flush()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        for title, part in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, command.line) for name, command in part.items()])


def group(help: str) -> typer.Typer:
    """A group of commands, for a module of commands."""
    return _typer(help=help, no_args_is_help=True)


def _typer(**words: Any) -> typer.Typer:
    # Plain help: Rich would take longer to load than most commands take to run.
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **words)


app = _typer(cls=_Root, no_args_is_help=True)


def _version(on: bool) -> None:
    if on:
        output.say(f"vmctl {__version__}")
        raise typer.Exit


@app.callback()
def vmctl(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Two voicemail servers as one: their stores in step over SMTP, and one of them serving."""


# Options that may stand before and after any command


def _set(context: typer.Context, **values: Any) -> None:
    for name, value in values.items():
        if value:  # what is nearest to the command's end wins, and what is not said changes nothing
            setattr(Session.of(context), name, value)


def _take_config(context: typer.Context, value: Any) -> None:
    _set(context, config_path=value)


def _take_server(context: typer.Context, value: Any) -> None:
    _set(context, server_name=value)


def _take_json(context: typer.Context, value: Any) -> None:
    _set(context, json=value)


def _shared(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The vmctl.yaml, or its directory (or VMCTL_CONFIG).",
            callback=_take_config, expose_value=False,
        ),
    ] = None,
    server: Annotated[
        Literal["primary", "secondary"] | None,
        typer.Option(
            help="The server that is meant (or VMCTL_SERVER).", callback=_take_server, expose_value=False
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON.", callback=_take_json, expose_value=False),
    ] = False,
) -> None:  # fmt: skip
    """A bearer of options; it is never called."""
    del config, server, json


_PLAIN = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_UNKNOWN: Final = object()
_PATH_RULES = ("exists", "writable", "resolve_path", "allow_dash", "path_type")


def _plainly(parameter: Any, value: Any) -> Any:
    """The value of a parameter where it is plain what it is; _UNKNOWN where it is for Typer to say.

    Typer hands all values to pydantic, which takes longer to load than `vmctl status` takes to run: also defaults, and
    what is not given at all.
    """
    if value is None:
        return _UNKNOWN if parameter.required else None
    kind, info = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
    if parameter.nargs != 1 or parameter.multiple or info.parser is not None:
        return _UNKNOWN
    return _number(kind, value, info) if kind in {bool, int, float} else _text(kind, value, info)


def _text(kind: Any, value: Any, info: Any) -> Any:
    if not (isinstance(value, str) and value.isascii()):
        return _UNKNOWN
    if kind is str or (get_origin(kind) is Literal and value in get_args(kind)):
        return value
    if kind is Path and not any(getattr(info, rule) for rule in _PATH_RULES):
        return Path(value)
    return _UNKNOWN


def _number(kind: type, value: Any, info: Any) -> Any:
    if isinstance(value, str) and kind is not bool and _PLAIN.fullmatch(value):
        value = float(value) if "." in value or kind is float else int(value)
    least, most = info.min, info.max
    fits = type(value) is kind and (least is None or value >= least) and (most is None or value <= most)
    return value if fits else _UNKNOWN


def _processed(parameter: Any, ctx: Any, value: Any, by_typer: Callable[[Any, Any], Any]) -> Any:
    with _in_plain_words():
        plain = _plainly(parameter, value)
        if plain is _UNKNOWN:
            return by_typer(ctx, value)
        return plain if plain is None or parameter.callback is None else parameter.callback(ctx, parameter, plain)


class _SparedOption(TyperOption):
    """An option that costs nothing where it is plain what it says."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        return _processed(self, ctx, value, super().process_value)


class _SparedArgument(TyperArgument):
    """An argument, likewise."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        return _processed(self, ctx, value, super().process_value)


@contextlib.contextmanager
def _in_plain_words() -> Iterator[None]:
    """Say of a wrong value what is wrong with it, without what pydantic puts before that."""
    try:
        yield
    except typer.BadParameter as error:
        error.message = error.message.removeprefix("Value error, ")
        raise


_SPARED = {TyperOption: _SparedOption, TyperArgument: _SparedArgument}


@functools.cache
def _shared_options() -> list[Any]:
    template = _typer()
    template.command()(_shared)
    return list(get_command(template).params)


def _with_shared_options(command: Any) -> Any:
    """The command, and all below it, with the shared options."""
    for each in _tree(command):
        each.params.extend(_shared_options())
        for parameter in (*each.params, each.get_help_option(typer.Context(each))):
            # Typer makes its parameters itself, and asks for no class
            parameter.__class__ = _SPARED.get(parameter.__class__, parameter.__class__)
    return command


def _tree(command: Any) -> Iterator[Any]:
    yield command
    if isinstance(command, TyperGroup) and not isinstance(command.commands, _Lazy):
        for below in command.commands.values():
            yield from _tree(below)


# The end of every error


@contextlib.contextmanager
def _told(context: Any) -> Iterator[None]:
    """Turn what a command raises into words on stderr and an exit code."""
    try:
        yield
    except (TyperException, typer.Exit, typer.Abort):
        raise
    except VmctlError as error:
        _end(error, context)
    except BrokenPipeError:  # `vmctl journal | head`: the reader has what it wanted
        _silence()
        raise typer.Exit(OutputClosed.exit_code) from None
    except Exception as error:  # noqa: BLE001 - the last to hear of it
        if os.environ.get(DEBUG_VARIABLE):
            import traceback

            traceback.print_exc()
        _end(VmctlError(f"this is a bug: {type(error).__name__}: {error}", hint=_BUG_HINT), context)


_BUG_HINT = f"report it with the command, and with what it prints under {DEBUG_VARIABLE}=1"


def _end(error: VmctlError, context: Any) -> NoReturn:
    if isinstance(error, OutputClosed):
        _silence()
    output.tell(error, as_json=context is not None and Session.of(context).json)
    raise typer.Exit(error.exit_code) from None


def _silence() -> None:
    """Send what is still to be printed nowhere, or the interpreter would complain at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
