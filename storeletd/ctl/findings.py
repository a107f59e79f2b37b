"""What a check-up found, as lines: for people and for programs."""

from __future__ import annotations

import os
import pwd
import shutil
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from storeletd.ctl import console
from storeletd.ctl.formats import escape
from storeletd.ctl.invocation import Invocation

if TYPE_CHECKING:
    import storelet

__all__ = ["describe_finding", "exit_code_of", "print_finding", "say_whose_rights"]

_STATE_WIDTH = len("warning")
_CHECK_WIDTH = len("file system")
_INDENT = " " * (2 + _STATE_WIDTH + 2 + _CHECK_WIDTH + 2)


def print_finding(finding: storelet.Finding) -> None:
    """Print what was found out about one thing, and what to do."""
    state = f"{finding.state:{_STATE_WIDTH}}"
    head = f"  {console.colour(state, finding.state)}  {finding.check:{_CHECK_WIDTH}}  "
    first, *more = _wrap(escape(finding.message))
    console.print_line(head + first)
    if finding.hint and finding.state != "ok":
        more += _wrap(f"Try: {escape(finding.hint)}")
    console.print_all(_INDENT + line for line in more)


def describe_finding(finding: storelet.Finding) -> dict[str, Any]:
    """Return what was found out as JSON."""
    return {
        "check": finding.check,
        "state": finding.state,
        "message": finding.message,
        "hint": finding.hint,
    }


def exit_code_of(findings: Sequence[storelet.Finding]) -> int:
    """Return the exit code of what failed: its own, where that is one."""
    import storelet

    errors = [each.error for each in findings if each.error is not None]
    return storelet.join_errors(errors).exit_code if errors else 0


def say_whose_rights(invocation: Invocation) -> None:
    """Say so where the daemon, whose socket it is, is another user."""
    with suppress(OSError):
        owner = os.stat(invocation.socket_path).st_uid
        if owner != os.geteuid():
            us, daemon = _name_user(os.geteuid()), _name_user(owner)
            console.print_remark(f"Checked as {us}; storeletd is {daemon}, who has other rights")


def _name_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _wrap(text: str) -> list[str]:
    """Return the lines of a text beside its head: on a terminal as wide as that is."""
    if not console.is_terminal():
        return [text]
    width = max(shutil.get_terminal_size().columns - len(_INDENT), 30)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
