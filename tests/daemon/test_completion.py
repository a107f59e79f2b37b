"""The shells complete verbs, options, jobs and archives, as they are started."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.test_daemon import run, write_yaml
from tests.helpers import CLONE, Daemon

# Calls what the shell calls when somebody presses the tabulator, and prints what it offers.
_BASH = """\
eval "$(storeletctl completion bash)"
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_storeletctl_completion storeletctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
_FISH = """\
storeletctl completion fish | source
complete --do-complete {line} | string split --fields 1 \\t
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a PATH with a storeletctl of this clone."""
    program = tmp_path / "bin" / "storeletctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncd {CLONE} && exec {sys.executable} -m storeletd.ctl "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def offer(shell: str, script: str, daemon: Daemon, path: str) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run(
        [shell, "-c", script],
        env={**os.environ, "PATH": path, "STORELET_SOCKET": str(daemon.socket)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("pa",), ["pause"]),
        (("restore", "--over"), ["--overwrite"]),
        (("run-now", "we"), ["web", "web_site"]),
        (("run-now", "web", ""), ["database", "web", "web_site"]),
        (("verify", "d"), ["database"]),
        (
            (
                "diff",
                "web_site_",
            ),
            ["ARCHIVE"],
        ),
        (("completion", "z"), ["zsh"]),
    ],
    ids=lambda value: value[0],
)
def test_what_is_typed_is_completed(
    daemon: Daemon,
    tree: Path,
    destination: Path,
    path: str,
    shell: str,
    words: tuple[str, ...],
    found: list[str],
) -> None:
    for name in ("web", "web_site", "database"):
        write_yaml(daemon, name, tree, destination)
    run(daemon, "web_site")
    (archive,) = destination.iterdir()
    line = shlex.join(["storeletctl", *words])
    if shell == "bash":
        script = _BASH.format(words=line)
    else:
        script = _FISH.format(line=shlex.quote(" ".join(["storeletctl", *words])))
    expected = [each.replace("ARCHIVE", archive.name) for each in found]
    assert offer(shell, script, daemon, path) == expected


def test_nothing_is_offered_and_nothing_said_where_no_daemon_is(daemon: Daemon, path: str) -> None:
    daemon.stop()
    assert offer("bash", _BASH.format(words="storeletctl run-now w"), daemon, path) == []


def test_zsh_understands_its_part(daemon: Daemon, path: str) -> None:
    script = """\
autoload -Uz compinit; compinit -u -D  # it keeps no file
eval "$(storeletctl completion zsh)"
print $_comps[storeletctl]
"""
    assert offer("zsh", script, daemon, path) == ["_storeletctl_completion"]
