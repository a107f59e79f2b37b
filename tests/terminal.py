"""storeletctl on a terminal: a pseudo-terminal of some width, and what is written to it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable

from tests.helpers import CLONE

__all__ = ["on_terminal", "read_terminal", "run_on_terminal", "show", "spawn"]


def spawn(*arguments: str, output: int, errors: int, **environment: str) -> subprocess.Popen[bytes]:
    """Start storeletctl with that environment alone."""
    return subprocess.Popen(
        # A shell's background jobs ignore SIGINT, and so would what such a test run starts.
        ["env", "--default-signal=INT", sys.executable, "-m", "storeletd.ctl", *arguments],
        cwd=CLONE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TERM": "xterm", **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
    )


def run_on_terminal(*arguments: str, columns: int = 80, **environment: str) -> str:
    """Return all that storeletctl writes to a terminal."""
    return on_terminal(
        lambda slave: spawn(*arguments, output=slave, errors=slave, **environment), columns
    )


def on_terminal(start: Callable[[int], subprocess.Popen[bytes]], columns: int = 80) -> str:
    """Return all that a process writes to the terminal it is started with."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    with start(slave) as process:
        os.close(slave)
        shown = b"".join(iter(lambda: read_terminal(master), b""))
        process.wait(60)
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


def show(*arguments: str, columns: int = 80, **environment: str) -> str:
    """Return what storeletctl writes to a terminal, without its colours."""
    shown = run_on_terminal(*arguments, columns=columns, **environment)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def read_terminal(master: int) -> bytes:
    """Return what was written since, nothing where nobody will write any more."""
    try:
        return os.read(master, 65536)
    except OSError:  # the other end is closed
        return b""
