"""Times, spans, sizes, counts and problems as people read them; strange characters made visible.

Pure. Spans are written as job files write durations (`1h30m`), without spaces.
"""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from storeletd.ctl.replies import Problem

__all__ = [
    "describe_bytes",
    "describe_count",
    "describe_elapsed",
    "describe_place",
    "describe_problem",
    "describe_span",
    "describe_time",
    "escape",
    "shorten_path",
]

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


def describe_place(url: str) -> str:
    """Return what people call an archive's URL: its path where it is a file, else all of it."""
    is_local = url.startswith("file://")
    return unquote(url.removeprefix("file://")) if is_local else url


def escape(text: str) -> str:
    r"""Return `text` on one line, with all that could steer a terminal written as `\x1b`.

    That is what Python calls not printable: control characters (C1 too), marks that turn the
    direction of writing, line separators, and bytes of file names that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape_character(char) for char in text)


def _escape_character(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as PEP 383 keeps it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def describe_time(
    moment: str | datetime, timezone: tzinfo | None = None, *, exact: bool = False
) -> str:
    """Return a time as `Wed 2026-11-25 02:30`, in `timezone` or else in the local zone.

    `exact` adds the seconds where there are any, and the zone: `Wed 2026-11-25 02:30:15 CET`.
    """
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    local = moment.astimezone(timezone)
    if not exact:
        return local.strftime("%a %Y-%m-%d %H:%M")
    return local.strftime(f"%a %Y-%m-%d %H:%M{':%S' if local.second else ''} %Z")


def describe_span(seconds: float) -> str:
    """Return how long it is till then, or since: `3d`, `15h`, `1h30m`, `12m`, `4m10s`, `40s`.

    The smaller unit is left out where it no longer matters, as systemd's timers have it.
    """
    whole = int(seconds)
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "m"),
        (_MINUTE, "m", 1, "s"),
    ):
        if whole >= unit:
            count, rest = divmod(whole, unit)
            few = count < (2 if unit == _DAY else 5) and rest >= smaller
            return f"{count}{name}" + (f"{rest // smaller}{smaller_name}" if few else "")
    return f"{max(whole, 0)}s"


def describe_elapsed(seconds: float) -> str:
    """Return how long something took: `0.4s`, `42s`, `3m04s`, `2h05m`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}".removesuffix(".0") + "s"
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"


def describe_bytes(count: float) -> str:
    """Return a size as `1.2 GiB` or `570 MiB`; under 1 KiB as `512 B`."""
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 99.95:  # more would be shown as 100.0
            return f"{count:.1f} {unit}"
        if count < 1023.5:  # more would be shown as 1024
            return f"{count:.0f} {unit}"
    return f"{count / 1024:.1f} PiB"


def describe_count(count: int, noun: str) -> str:
    """Return `1 file`, `1,204 files`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def describe_problem(problem: Problem) -> str:
    """Return `file:line: key: message` on one line; what is not known is left out."""
    line = "" if problem["line"] is None else f":{problem['line']}"
    key = f"{problem['key']}: " if problem["key"] else ""
    return escape(f"{problem['file']}{line}: {key}{problem['message']}")


def shorten_path(path: str, width: int) -> str:
    """Return the end of a path that fits into `width` characters: the end says more."""
    return path if len(path) <= width else "…" + path[len(path) - width + 1 :]
