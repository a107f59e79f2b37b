"""Disks that fill up, are read-only, or go away under a run.

Small file systems are mounted for the daemon alone: it starts in a mount namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_daemon import finished, run, started, write_job
from tests.helpers import Daemon

MIB = 1 << 20
SPOOLED = """\
SCHEDULE = "manual"
import storelet
with storelet.ZipBackup("web") as backup:
    backup.include_directory({source!r})
    backup.save_to_directory({kept!r})
"""
FILLING = """\
schedule: manual
include: [{{new_dir: dump, run: "head -c 40000000 /dev/urandom >{{dir}}/dump"}}]
save: [{{directory: {kept}}}]
"""
# Waits, after the walk and before the archive is written, until the file `go` is there.
WAITING = """\
SCHEDULE = "manual"
import os, time
import storelet
with storelet.ZipBackup("web", destination=storelet.Directory({kept!r})) as backup:
    backup.include_directory({source!r})
    open({mark!r}, "w").close()
    while not os.path.exists({go!r}):
        time.sleep(0.02)
"""
# The same, once the archive has been opened and the first bytes of a large file are read.
AMID = """\
SCHEDULE = "manual"
import os, time
import storelet
from storelet import observer
theirs = observer._observer
def wait(event):
    theirs(event)
    if isinstance(event, storelet.Moved) and event.bytes_sent:
        open({mark!r}, "w").close()
        while not os.path.exists({go!r}):
            time.sleep(0.02)
with storelet.observe(wait):
    with storelet.ZipBackup("web", destination=storelet.Directory({kept!r})) as backup:
        backup.include_directory({source!r})
"""


def _why_not() -> str | None:
    if os.geteuid() != 0:
        return "only root can mount file systems"
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"],
        capture_output=True,
        text=True,
    )
    return f"no file system can be mounted here: {tried.stderr}" if tried.returncode else None


@pytest.fixture(scope="module", autouse=True)
def may_mount() -> None:
    """Skip, with the reason, where no file system can be mounted."""
    if why := _why_not():
        pytest.skip(why)


class Mounts:
    """The daemon's mount namespace, entered by its process id."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def mount(self, place: Path, options: str) -> None:
        place.mkdir(exist_ok=True)
        self._run("mount", "-t", "tmpfs", "-o", options, "none", str(place))

    def remount(self, place: Path, options: str) -> None:
        self._run("mount", "-o", f"remount,{options}", str(place))

    def unmount(self, place: Path) -> None:
        self._run("umount", "--lazy", str(place))

    def path(self, place: Path) -> Path:
        """Return where we see what the daemon sees at `place`."""
        return Path(f"/proc/{self._daemon.pid}/root{place}")

    def _run(self, *command: str) -> None:
        enter = ["nsenter", f"--mount=/proc/{self._daemon.pid}/ns/mnt"]
        subprocess.run([*enter, *command], check=True, capture_output=True, text=True)


@pytest.fixture
def mounts(daemon: Daemon) -> Iterator[Mounts]:
    """Start the daemon in a mount namespace; in the end no temporary file may be left."""
    daemon.stop()
    program = """
import ctypes, runpy, subprocess
assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS, <linux/sched.h>
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
runpy.run_module("storeletd", run_name="__main__", alter_sys=True)
"""
    daemon.start(program=program)
    yield Mounts(daemon)
    assert [path.name for path in daemon.socket.parent.glob("storelet-*")] == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make what does not fit where there are 16 MiB."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "random").write_bytes(os.urandom(30 * MIB))
    return directory


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make a directory for archives."""
    directory = tmp_path / "kept"
    directory.mkdir()
    return directory


def write_web(daemon: Daemon, source: Path, kept: Path, more: str = "") -> None:
    write_job(
        daemon,
        "web.yaml",
        f"""\
        schedule: manual
        include: [{{directory: {source}}}]
        save: [{{directory: {kept}}}{more}]
        """,
    )


def shape(done: dict[str, Any]) -> tuple[Any, Any]:
    return done["outcome"], done["exit_code"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def only_archive(directory: Path) -> str:
    (archive,) = directory.iterdir()
    assert zipfile.ZipFile(archive).testzip() is None
    return archive.name


# The directory for temporary files


@pytest.mark.parametrize("kind", ["spooled", "new_dir"])
def test_a_full_temporary_directory_fails_the_run_and_is_named(
    daemon: Daemon, mounts: Mounts, source: Path, kept: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "spooled":
        text = SPOOLED.format(source=str(source), kept=str(kept))
        write_job(daemon, "web.py", text)
    else:
        write_job(daemon, "web.yaml", FILLING.format(kept=kept))
    # The daemon's own: what a run gets is made in it.
    mounts.mount(daemon.socket.parent, "size=16m")
    done = run(daemon, "web")
    assert shape(done) == ("failed", 1)
    if kind == "spooled":
        assert done["message"].startswith(f"cannot write temporary files in {daemon.socket.parent}")
        assert done["message"].endswith("No space left on device")
        assert "TMPDIR" in done["hint"]
    else:
        assert done["message"] == "the command of new_dir dump ended with status 1"
        assert any("No space left on device" in line for line in done["output"])
    assert list(kept.iterdir()) == []
    daemon.assert_alone()
    assert list(mounts.path(daemon.socket.parent).iterdir()) == []
    mounts.unmount(daemon.socket.parent)
    assert run(daemon, "web")["outcome"] == "success"
    only_archive(kept)


# A directory destination


def test_a_full_destination_fails_the_run_and_keeps_what_it_has(
    daemon: Daemon, mounts: Mounts, source: Path, kept: Path
) -> None:
    mounts.mount(kept, "size=40m")
    write_web(daemon, source, kept)
    assert run(daemon, "web")["outcome"] == "success"
    before = contents(mounts.path(kept))
    assert len(before) == 1
    (source / "random").write_bytes(os.urandom(30 * MIB))
    done = run(daemon, "web")
    assert shape(done) == ("failed", 1)
    assert done["message"] == f"cannot write to directory {kept}: No space left on device"
    assert done["hint"] == "make room there or choose another directory"
    assert contents(mounts.path(kept)) == before
    assert used_bytes(mounts.path(kept)) < 35 * MIB  # nor is anything there without a name
    mounts.remount(kept, "size=100m")
    assert run(daemon, "web")["outcome"] == "success"
    assert len(contents(mounts.path(kept))) == 2


def used_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_full_destination_does_not_keep_the_other_from_its_archive(
    daemon: Daemon, mounts: Mounts, source: Path, kept: Path, tmp_path: Path
) -> None:
    (other := tmp_path / "other").mkdir()
    mounts.mount(kept, "size=16m")
    write_web(daemon, source, kept, f", {{directory: {other}}}")
    done = run(daemon, "web")
    assert shape(done) == ("failed", 1)
    assert "No space left on device" in done["message"]
    assert len(done["archives"]) == 1
    only_archive(other)
    assert contents(mounts.path(kept)) == {}


def test_a_read_only_destination_fails_the_run_with_a_hint(
    daemon: Daemon, mounts: Mounts, source: Path, kept: Path
) -> None:
    mounts.mount(kept, "size=100m")
    mounts.remount(kept, "ro")
    write_web(daemon, source, kept)
    done = run(daemon, "web")
    assert shape(done) == ("failed", 77)
    assert done["message"] == f"cannot write to directory {kept}: Read-only file system"
    assert "ReadWritePaths=" in done["hint"]
    mounts.remount(kept, "rw")
    assert run(daemon, "web")["outcome"] == "success"
    only_archive(mounts.path(kept))


def test_a_destination_that_goes_away_before_it_is_written_to_fails_the_run(
    daemon: Daemon, mounts: Mounts, source: Path, kept: Path, tmp_path: Path
) -> None:
    """What lies beneath the mount point is not the destination, and its disk must not fill up."""
    (place := kept / "mounted" / "archives").parent.mkdir()
    mounts.mount(place.parent, "size=100m")
    mounts.path(place).mkdir()
    run_id = start_waiting(daemon, source, place, tmp_path)
    mounts.unmount(place.parent)
    (tmp_path / "go").touch()
    done = finished(daemon, run_id)
    assert shape(done) == ("failed", 10)
    assert done["message"] == f"no such directory: {place}"
    assert "is it mounted?" in done["hint"]
    assert list(kept.rglob("*")) == [place.parent]


def start_waiting(daemon: Daemon, source: Path, kept: Path, tmp_path: Path) -> int:
    """Start a run and return when it has walked its source and waits for the file `go`."""
    mark, go = tmp_path / "mark", tmp_path / "go"
    text = WAITING.format(kept=str(kept), source=str(source), mark=str(mark), go=str(go))
    write_job(daemon, "web.py", text)
    return started(daemon, "web", mark)


def test_a_destination_that_goes_away_amid_the_archive_gets_nothing_half_written(
    daemon: Daemon, mounts: Mounts, source: Path, kept: Path, tmp_path: Path
) -> None:
    mounts.mount(kept, "size=100m")
    (mounts.path(kept) / "web_20200101000000.zip").write_bytes(b"an earlier one")
    seen = os.open(mounts.path(kept), os.O_RDONLY | os.O_DIRECTORY)
    try:
        mark, go = tmp_path / "mark", tmp_path / "go"
        text = AMID.format(kept=str(kept), source=str(source), mark=str(mark), go=str(go))
        write_job(daemon, "web.py", text)
        run_id = started(daemon, "web", mark)
        mounts.unmount(kept)
        go.touch()
        done = finished(daemon, run_id)
        assert shape(done) == ("failed", 1)
        assert str(kept) in done["message"]
        assert done["hint"] == "was it unmounted meanwhile?"
        assert os.listdir(seen) == ["web_20200101000000.zip"]
        assert list(kept.iterdir()) == []
    finally:
        os.close(seen)
