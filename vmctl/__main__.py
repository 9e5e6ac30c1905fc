"""`vmctl` and `python -m vmctl`: the process around a command, with its streams, its mask and its end."""

from __future__ import annotations

import io
import os
import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command that was typed; the exit code."""
    os.umask(0o077)  # recordings and PINs are nobody else's
    try:
        if not _streams_are_open():
            return _refuse_closed_output()
        from vmctl.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED


def _streams_are_open() -> bool:
    """Whether standard output is open.

    A closed descriptor would be the number of the next file that is opened, and what is printed would land there. So
    input and errors get the null device, and without an output nothing is done.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            if number == 1:
                return False
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be text
    return True


def _refuse_closed_output() -> int:
    from vmctl.cli.output import tell
    from vmctl.errors import OutputClosed

    error = OutputClosed("the standard output is closed", why="what the command has to say would be lost")
    tell(error, as_json="--json" in sys.argv)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
