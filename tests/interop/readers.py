"""Zip readers that are not ours, each as one function: an archive in, what it found out."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

__all__ = ["READERS", "Found", "Java", "Reader", "hash_of", "java_is_missing", "look"]

# That `unzip` may write any name it must be told by locale, `-^` (control characters) and `-V`:
# else `file;1` is version 1 of `file`, as on VMS.
_ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file, directory or link, as it was or as a reader brought it back."""

    kind: str  # file, directory, link
    content: str  # SHA-256 of a file or link
    mode: int
    mtime: int  # seconds


def look(top: Path) -> dict[bytes, Found]:
    """Look through a directory: its paths, and what is there."""
    found = {}
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in names + files:
            path = os.path.join(directory, name)
            said = os.lstat(path)
            if stat.S_ISLNK(said.st_mode):
                kind, content = "link", hash_of(os.readlink(path))
            elif stat.S_ISDIR(said.st_mode):
                kind, content = "directory", ""
            else:
                with open(path, "rb") as file:
                    kind, content = "file", hashlib.file_digest(file, "sha256").hexdigest()
            found[os.path.relpath(path, os.fsencode(top))] = Found(
                kind=kind,
                content=content,
                mode=stat.S_IMODE(said.st_mode),
                mtime=int(said.st_mtime // 1),
            )
    return found


def hash_of(data: bytes) -> str:
    """Return the SHA-256, as readers' results have it."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A reader and what it brings back beside names and contents."""

    name: str
    program: str | None
    read: Callable[[Path], dict[bytes, Found]]
    keeps_links: bool = True  # else a link is a file that holds its target
    keeps_modes: bool = True
    keeps_times: bool = True

    @property
    def missing(self) -> str | None:
        """Why it cannot be used here."""
        if self.program and not shutil.which(self.program):
            return f"{self.program} is not installed"
        return None


def _extract(*command: str, pipe: bool = False) -> Callable[[Path], dict[bytes, Found]]:
    """Return what reads by extracting; `ARCHIVE` and `INTO` are filled in. It must not complain."""

    def read(archive: Path) -> dict[bytes, Found]:
        with tempfile.TemporaryDirectory() as into, archive.open("rb") as file:
            source = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) if pipe else None
            done = subprocess.run(
                [word.replace("ARCHIVE", str(archive)).replace("INTO", into) for word in command],
                stdin=source.stdout if source else subprocess.DEVNULL,
                capture_output=True,
                env=_ENVIRONMENT,
                umask=0,  # or 7z takes it off the modes
                timeout=120,
            )
            if source:
                source.communicate()
            assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
            assert done.stderr == b""
            assert b"warning" not in done.stdout.lower()
            return look(Path(into))

    return read


def _read_with_python(archive: Path) -> dict[bytes, Found]:
    found = {}
    with zipfile.ZipFile(archive) as zip_file:
        for info in zip_file.infolist():
            kind = "directory" if info.is_dir() else "file"
            content = "" if info.is_dir() else hash_of(zip_file.read(info))
            mode = stat.S_IMODE(info.external_attr >> 16)
            name = info.filename.rstrip("/").encode()
            found[name] = Found(kind=kind, content=content, mode=mode, mtime=0)
    return found


class Java:
    """A Java program that reads one archive after the other, because it is slow to start."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Java]:
        """Run it until the block ends."""
        program = Path(__file__).with_name("ReadZip.java")
        process = subprocess.Popen(
            ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            yield cls(process)
            _pipe(process.stdin).close()

    def read(self, archive: Path) -> tuple[dict[bytes, str], dict[bytes, str]]:
        """Return what it found streaming, and by the catalogue: names and hashes of contents."""
        print(archive, file=_pipe(self._process.stdin), flush=True)
        found: dict[str, dict[bytes, str]] = {"stream": {}, "file": {}}
        for line in _pipe(self._process.stdout):
            if line == ".\n":
                return found["stream"], found["file"]
            assert not line.startswith("!"), line
            how, name, content = line.split()
            decoded = bytes.fromhex(name).rstrip(b"/")
            assert decoded not in found[how]
            found[how][decoded] = content.strip("-")
        raise AssertionError("java ended")


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream
    return stream


@cache
def java_is_missing() -> str | None:
    """Why Java cannot be used here: there may be one that runs, and compiles nothing."""
    if not shutil.which("java"):
        return "java is not installed"
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, text=True)
    if "jdk.compiler" not in modules.stdout:
        return "java is installed without its compiler (a JDK has it)"
    return None


READERS = [
    Reader(
        name="unzip",
        program="unzip",
        read=_extract("unzip", "-^V", "-qq", "-o", "ARCHIVE", "-d", "INTO"),
    ),
    Reader(
        name="7z",
        program="7z",
        read=_extract("7z", "x", "-y", "-bd", "-oINTO", "ARCHIVE"),
    ),
    Reader(
        name="bsdtar from a file",
        program="bsdtar",
        read=_extract("bsdtar", "-xpf", "ARCHIVE", "-C", "INTO"),
    ),
    Reader(
        name="bsdtar from a pipe",
        program="bsdtar",
        read=_extract("bsdtar", "-xpf", "-", "-C", "INTO", pipe=True),
        keeps_links=False,  # types and modes stand in the catalogue, which comes last
        keeps_modes=False,
    ),
    Reader(
        name=f"Python {sys.version_info.major}.{sys.version_info.minor}",
        program=None,
        read=_read_with_python,
        keeps_links=False,
        keeps_times=False,
    ),
]
