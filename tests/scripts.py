"""Scripts run as processes of their own, under conditions that a test cannot have in its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import CLONE

__all__ = ["AS_PLAIN_USER", "REFUSING", "ctl", "make_program", "run_script", "run_with_mounts"]

# Where the tests run as root, permissions stop nobody: this makes the script somebody else.
# It may find no module that is not loaded by then.
AS_PLAIN_USER = """
import os, storelet, sys, tempfile, zipfile
from storelet.deflate import find_engine
find_engine("fast")  # now: afterwards a clone under /root is out of reach
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""

# `refuse((system call, errno), …)`: from then on the kernel itself answers so. `O_TMPFILE` is
# openat with that flag. Seccomp is what service managers and containers forbid calls with.
REFUSING = """
import ctypes, errno, platform, storelet, struct
def refuse(*rules):
    calls = {
        "x86_64": (0xC000003E, {"openat": 257, "link": 86, "linkat": 265, "fsync": 74,
                                "pread": 17, "fchown": 93, "fchownat": 260}),
        "aarch64": (0xC00000B7, {"openat": 56, "linkat": 37, "fsync": 82, "pread": 67,
                                 "fchown": 55, "fchownat": 54}),
    }
    architecture, numbers = calls[platform.machine()]
    def step(code, k, yes=0, no=0):
        return struct.pack("<HBBL", code, yes, no, k)
    load, jump_equal, jump_set, done = 0x20, 0x15, 0x45, 0x06
    program = step(load, 4) + step(jump_equal, architecture, 1) + step(done, 0x7FFF0000)
    for call, error in rules:
        if call not in numbers and call != "O_TMPFILE":
            continue
        answer = step(done, 0x00050000 | error)
        if call == "O_TMPFILE":
            answer = step(load, 16 + 8 * 2) + step(jump_set, 0o20000000, 0, 1) + answer
        number = numbers["openat" if call == "O_TMPFILE" else call]
        program += step(load, 0) + step(jump_equal, number, 0, len(answer) // 8) + answer
    program += step(done, 0x7FFF0000)
    code = ctypes.create_string_buffer(program)
    filled = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert prctl(22, 2, ctypes.create_string_buffer(filled), 0, 0) == 0, ctypes.get_errno()
"""


def ctl(*arguments: str, cwd: Path = CLONE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run storeletctl, where no daemon need be, with that environment alone."""
    return subprocess.run(
        [sys.executable, "-m", "storeletd.ctl", *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "Europe/Berlin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def run_script(
    text: str,
    *arguments: str | Path,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a script, its arguments in sys.argv[1:]; with `check` it must end well."""
    done = subprocess.run(
        [python, "-c", text, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(CLONE), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def run_with_mounts(
    mounts: str, text: str, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run shell commands that mount, then a script, both in mounts of their own.

    `$1`, `$2`, … are the arguments. Skips the test where this user may not mount.
    """
    if not _may_mount():
        pytest.skip("mounts of one's own need root or user namespaces (unshare)")
    done = subprocess.run(
        [*_unshare(), "sh", "-euc", f'{mounts}\nexec "$0" -c "$TEXT" "$@"', sys.executable]
        + [str(each) for each in arguments],
        env={**os.environ, "PYTHONPATH": str(CLONE), "TEXT": text},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _unshare() -> list[str]:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own, "--mount"]


@cache
def _may_mount() -> bool:
    if not shutil.which("unshare"):
        return False
    probe = [*_unshare(), "mount", "-t", "tmpfs", "none", "/tmp"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def make_program(path: Path, script: str) -> None:
    """Make a program of a shell script, and its directory."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
