"""What a person sees of archives, on a terminal of 80 columns."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import storelet
from storeletd.ctl.meter import Meter
from tests.helpers import CLONE
from tests.terminal import read_terminal, show, spawn

_CELLS = re.compile(r" {2,}")


@pytest.fixture
def make_archive(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Return a function that makes an archive of files, at a place with a long name."""

    def make(files: dict[str, bytes]) -> Path:
        place, source = tmp_path / ("a long name " * 9), tmp_path / "source"
        place.mkdir()
        source.mkdir()
        for name, content in files.items():
            (source / name).write_bytes(content)
        with storelet.ZipBackup("website", destination=storelet.Directory(place)) as backup:
            backup.include_directory(source)
        (archive,) = place.iterdir()
        return archive

    return make


def test_what_is_copied_from_a_table_is_in_one_piece(
    make_archive: Callable[[dict[str, bytes]], Path],
) -> None:
    archive = make_archive({"name " * 30 + "end": b"", "日本": b"", "plain": b""})
    titles, row = show("archives", f"{archive.parent}/").splitlines()
    assert _CELLS.split(row)[-1] == str(archive)
    assert row.index(str(archive)) == titles.index("ARCHIVE")
    titles, *rows = show("find", f"{archive.parent}/", "*").splitlines()
    assert [_CELLS.split(row)[-1] for row in rows] == ["name " * 30 + "end", "plain", "日本"]
    assert {row.index(archive.name) for row in rows} == {titles.index("NEWEST ARCHIVE")}


@pytest.mark.parametrize("content", [b"\0", b"text \x1b[2J", "\x9b2J".encode(), b"\r\x08"])
def test_what_could_steer_a_terminal_is_not_dumped_to_it(
    make_archive: Callable[[dict[str, bytes]], Path], tmp_path: Path, content: bytes
) -> None:
    archive = str(make_archive({"text": "naïve\ttext\n".encode(), "data": content}))
    assert show("dump", archive, "text") == "naïve\ttext\n"
    error, hint = show("dump", archive, "data").splitlines()
    assert error == "Error: data is no text: it could steer the terminal"
    command = f"{hint.removeprefix('Try: ')}".replace("FILE", str(tmp_path / "data"))
    run = [f'storeletctl() {{ {sys.executable} -m storeletd.ctl "$@"; }}', command]
    subprocess.run(["bash", "-c", "\n".join(run)], cwd=CLONE, check=True, timeout=60)
    assert (tmp_path / "data").read_bytes() == content


def test_a_large_file_says_how_far_it_is_and_how_long_it_takes(
    make_archive: Callable[[dict[str, bytes]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("storelet.observer._MOVED_SECONDS", 0)
    archive = storelet.open_archive(make_archive({"large": bytes(60 << 20), "small": b"s"}))
    meter, lines = Meter(), list[str]()
    lines.append(str(meter.draw()))

    def observe(event: storelet.Event) -> None:
        meter.observe(event)
        lines.append(str(meter.draw()))

    with storelet.observe(observe):
        archive.extract(tmp_path / "target")
    assert lines[0] == "reads what is in the archive, and what is there …"
    assert "0 of 2 files  0 B of 60.0 MiB  0 B/s" in lines
    assert any(re.search(r" [1-5]\d\.\d MiB of 60\.0 MiB  .* MiB/s  \d+s left$", e) for e in lines)
    assert lines[-1].startswith("2 of 2 files  60.0 MiB of 60.0 MiB  ")
    assert max(map(len, lines)) < 80


def test_directories_that_are_verified_do_not_count_as_files(tmp_path: Path) -> None:
    (tmp_path / "source" / "directory").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    with storelet.ZipBackup("x", destination=storelet.Directory(tmp_path / "kept")) as backup:
        backup.include_directory(tmp_path / "source")
    (archive,) = storelet.list_archives(tmp_path / "kept")
    meter = Meter()
    with storelet.observe(meter.observe):
        assert archive.verify().files == 1
    assert str(meter.draw()).startswith("0 of 0 files  0 B of 0 B")


def test_a_restore_that_is_interrupted_says_how_it_goes_on(
    make_archive: Callable[[dict[str, bytes]], Path], tmp_path: Path
) -> None:
    archive = make_archive({"large": bytes(512 << 20)})  # takes a second
    arguments = ("restore", str(archive), "--target", str(tmp_path / "target"))
    master, slave = pty.openpty()
    with spawn(*arguments, output=slave, errors=subprocess.PIPE) as process:
        os.close(slave)
        shown = b""
        while b"of 1 file" not in shown:
            shown += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        while read_terminal(master):
            pass
        assert process.stderr is not None
        said = process.stderr.read().decode()
    os.close(master)
    assert process.returncode == 130
    assert said == (
        "\nError: interrupted\nTry: the same command again; it goes on where it stopped\n"
    )
    assert list((tmp_path / "target").iterdir()) == []
    assert ctl_says(*arguments).startswith("Restored 1 file, 512 MiB to ")


def ctl_says(*arguments: str) -> str:
    """Return what storeletctl writes where there is no terminal."""
    with spawn(*arguments, output=subprocess.PIPE, errors=subprocess.PIPE) as process:
        return b"".join(process.communicate(timeout=60)).decode()
