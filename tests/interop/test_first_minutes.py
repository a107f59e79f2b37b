"""The first five minutes of the manual as its reader has them, in a terminal of 80 columns.

What this machine has not is replaced: the directories, and the installing. What commands print must
be what the manual shows, but for times, durations and sizes.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from storelet.zipformat import RACY_NS
from tests.helpers import CLONE, Daemon, wait_for
from tests.manual import blocks_of, chapter_of
from tests.scripts import make_program
from tests.terminal import read_terminal

INSTALLING = ("python3 -m venv", "/opt/storelet/bin/pip", "export PATH")
ARCHIVE = re.compile(r"documents_\d{14}\.zip")
ON_ARCHIVES = "archives|files|find|dump|diff|restore|verify|prune"


def read_transcript(chapter: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a chapter, and what it prints there."""
    for block in blocks_of(chapter, "console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            if not command.startswith(INSTALLING):
                yield command, shown


class Terminal:
    """A terminal of 80 columns, with the manual's directories where they are in this test."""

    def __init__(self, places: dict[str, Path], environment: dict[str, str]) -> None:
        self._places = places
        self._environment = environment

    def type(self, command: str) -> str:
        """Run a command and return what stands on the screen afterwards."""
        for place, path in self._places.items():
            command = command.replace(place, shlex.quote(str(path)))
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        with subprocess.Popen(
            ["/bin/sh", "-c", command],
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            written = b"".join(iter(lambda: read_terminal(ours), b"")).decode()
        os.close(ours)
        screen = show(written)
        assert process.returncode == 0, screen
        for place, path in self._places.items():
            screen = screen.replace(str(path), place)
        return screen


def show(written: str) -> str:
    """Do what a terminal does: erase lines that are written anew, and show no escapes."""
    text = written.replace("\r\n", "\n")
    text = re.sub(r"[^\n]*\n(?:\x1b\[\?25h)?\r?\x1b\[1A\x1b\[2K", "", text)
    text = re.sub(r"[^\n]*\r\x1b\[2K", "", text)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def without_figures(text: str) -> str:
    """Make times, durations and sizes what they are each time, wherever lines are broken."""
    text = ARCHIVE.sub("NAME", re.sub(r"\s", "", text))
    text = re.sub(r"(?:[A-Z][a-z]{2})?(?:\d{4}-\d\d-\d\d)?\d\d:\d\d", "TIME", text)
    text = re.sub(r"[\d.]+[KMG]?i?B", "SIZE", text)
    return re.sub(r"[\d.]+[smhd]", "LONG", text)


def test_the_first_five_minutes_go_as_the_manual_says(
    daemon: Daemon, job_dir: Path, tmp_path: Path
) -> None:
    chapter = chapter_of("The first five minutes")
    places = {
        "/etc/storelet.d": job_dir,
        "/home/mark/documents": tmp_path / "documents",
        "/srv/backups": tmp_path / "archives",
        "/tmp/back": tmp_path / "back",
    }
    make_documents(places["/home/mark/documents"])
    made_at = time.time()
    programs = tmp_path / "bin"
    make_program(
        programs / "storeletctl",
        "verb=$1; shift\n"
        f'case $verb in {ON_ARCHIVES}) set -- --jobs {shlex.quote(str(job_dir))} "$@";; esac\n'
        f'PYTHONPATH={CLONE} exec {sys.executable} -m storeletd.ctl "$verb" "$@"',
    )
    path = f"{programs}:{os.environ['PATH']}"
    terminal = Terminal(places, {"PATH": path, "STORELET_SOCKET": str(daemon.socket)})
    write_job(job_dir / "documents.yaml", blocks_of(chapter, "yaml")[0], places)
    names = sorted(set(ARCHIVE.findall(chapter)))
    # What is younger when it is read is not reused: nobody has made all of his files just now.
    wait_for(lambda: time.time() > made_at + RACY_NS / 1e9, seconds=10, what="files to be old")
    for command, shown in read_transcript(chapter):
        made = sorted(each.name for each in places["/srv/backups"].glob("*.zip"))
        here = dict(zip(names, made, strict=False))
        typed = ARCHIVE.sub(lambda match, here=here: here[match[0]], command)
        screen = terminal.type(typed)
        assert without_figures(screen) == without_figures(shown), f"$ {command}\n{screen}"
        if command.startswith("mkdir"):
            daemon.ctl("reload")
    assert len(names) == len(made) == 2


def make_documents(top: Path) -> None:
    """Make what is backed up: as many files as there, smaller ones, one of them Anna's."""
    (top / "letters").mkdir(parents=True)
    for number in range(936):
        (top / "letters" / f"{number}").write_bytes(os.urandom(2000))
    (top / "letters" / "anna.txt").write_text("Dear Anna,\n")


def write_job(path: Path, text: str, places: dict[str, Path]) -> None:
    """Write a job file, with directories that this machine has."""
    for place, there in places.items():
        text = text.replace(place, str(there))
    path.write_text(text)
    path.chmod(0o600)
