"""What is written where: results to standard output, errors and remarks to standard error.

On a terminal results may have colours; elsewhere they never have. Text that comes from files or
the daemon goes through `formats.escape` before it is printed; `print_line` does not do so,
since it also prints colours.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from storeletd.ctl.formats import escape

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "CommandError",
    "bold",
    "colour",
    "colour_of",
    "describe_error",
    "describe_line",
    "is_terminal",
    "open_terminal",
    "print_all",
    "print_error",
    "print_json",
    "print_line",
    "print_remark",
    "turn_off",
]

# Names that both click and rich know.
_COLOURS = {
    "running": "cyan",
    "queued": "cyan",
    "bad": "red",
    "broken": "red",
    "overdue": "red",
    "paused": "yellow",
    "waiting": "yellow",
    "run": "green",
    "catch-up": "yellow",
    "cut short": "red",
    "ok": "green",
    "warning": "yellow",
    "success": "green",
    "verified": "green",
    "verify failed": "red",
    "verifying": "cyan",
    "partial": "yellow",
    "skipped": "yellow",
    "failed": "red",
    "missed": "red",
    "timeout": "red",
    "lost": "red",
    "cancelled": "yellow",
}
_LEVEL_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


class CommandError(Exception):
    """Ends a verb: a message, a hint where the user can act, an exit code of the table."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


def is_terminal() -> bool:
    """Tell whether a person reads standard output."""
    return sys.stdout.isatty()


def open_terminal() -> Console:
    """Return rich's console for a terminal; it prints nothing as markup or highlighted."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def print_line(line: str = "") -> None:
    """Print a line of the result; colours are left out unless it goes to a terminal with them."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    click.echo(line, color=False if is_plain else None)


def print_all(lines: Iterable[str]) -> None:
    """Print lines of the result."""
    if every := list(lines):  # at once: thousands of writes take longer than all else
        print_line("\n".join(every))


def print_remark(text: str) -> None:
    """Print a line that is not part of the result."""
    _print_aside(escape(text))


def _print_aside(text: str) -> None:
    """Write to standard error; where nobody can be told, what is done is done all the same."""
    try:
        click.echo(text, err=True)
    except OSError:
        turn_off(sys.stderr.fileno())


def turn_off(stream: int) -> None:
    """Write to nobody from now on: what is buffered would fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def print_json(document: Any) -> None:
    """Print the one JSON document of a verb, in ASCII: nothing in it can steer a terminal."""
    click.echo(json.dumps(document, indent=2))


def print_error(error: CommandError | click.ClickException, *, as_json: bool) -> None:
    """Print an error to standard error, for people or for programs."""
    document = describe_error(error)
    if as_json:
        _print_aside(json.dumps(document, indent=2))
        return
    print_remark(f"Error: {document['error']}")
    if document["hint"]:
        print_remark(f"Try: {document['hint']}")


def describe_error(error: CommandError | click.ClickException) -> dict[str, Any]:
    """Return an error as JSON; for a wrong command line the hint is the verb's help."""
    if isinstance(error, CommandError):
        message, hint = error.message, error.hint
    else:
        context = error.ctx if isinstance(error, click.UsageError) else None
        message = error.format_message()
        hint = f"{context.command_path} --help" if context else None
    return {"error": message, "hint": hint, "exit_code": error.exit_code}


def colour_of(word: str) -> str | None:
    """Return the colour of a state or outcome; the usual ones have none."""
    return _COLOURS.get(word)


def bold(text: str) -> str:
    """Return `text` in bold type."""
    return click.style(text, bold=True)


def colour(text: str, word: str | None = None) -> str:
    """Return `text` in the colour of `word`, or of itself; as it is where that has none."""
    name = colour_of(word or text)
    return click.style(text, fg=name) if name else text


def describe_line(level: str, message: str) -> str:
    """Return a line of a run, in the colour of its logging level."""
    return click.style(escape(message.expandtabs()), fg=_LEVEL_COLOURS.get(level))
