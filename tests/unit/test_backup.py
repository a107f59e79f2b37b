"""`ZipBackup`: what the README promises to a script, line by line."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import freezegun
import pytest

import storelet
from storelet import Event, Passed, Saved, Skipped
from tests.helpers import Bucket
from tests.scripts import AS_PLAIN_USER, run_script, run_with_mounts
from tests.zipparser import ParsedZip, parse_zip


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make a directory to save archives to."""
    path = tmp_path / "kept"
    path.mkdir()
    return path


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """Note what is reported."""
    noted: list[Event] = []
    with storelet.observe(noted.append):
        yield noted


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a TMPDIR of the test's own."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def opened(url: str) -> ParsedZip:
    return parse_zip(Path(unquote(urlsplit(url).path)).read_bytes())


def saved(backup: storelet.ZipBackup, kept: Path) -> ParsedZip:
    return opened(backup.save_to_directory(kept))


# Including directories and files ----------------------------------------------------------------


@freezegun.freeze_time("2013-04-21 16:30:00")
def test_two_directories_become_one_object_their_contents_in_the_root(
    tmp_path: Path, bucket: Bucket
) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / f"of-{name}").write_text(f"in {name}\n")
        (tmp_path / name / "sub" / f"deep-{name}").write_text(f"deep in {name}\n")
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(str(tmp_path / "a"))
        backup.include_directory(str(tmp_path / "b"))
        url = backup.save_to_s3(bucket.name, bucket.access_key, bucket.secret_key)
    assert bucket.keys() == ["example_20130421163000.zip"]
    assert url == "s3://my-bucket/example_20130421163000.zip"
    assert parse_zip(bucket.read("example_20130421163000.zip")).contents() == {
        "of-a": b"in a\n",
        "of-b": b"in b\n",
        "sub/deep-a": b"deep in a\n",
        "sub/deep-b": b"deep in b\n",
    }


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns"])
def test_the_name_holds_the_local_date_and_time(
    kept: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    request.addfinalizer(lambda: (monkeypatch.undo(), time.tzset()))
    before = datetime.now().astimezone()
    with storelet.ZipBackup("example") as backup:
        backup.save_to_directory(kept)
    (name,) = os.listdir(kept)
    times = (before, datetime.now().astimezone())
    first, last = (f"example_{each:%Y%m%d%H%M%S}.zip" for each in times)
    assert first <= name <= last


def test_preserve_paths_keeps_the_whole_path_without_the_leading_slash(
    tree: Path, kept: Path
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree, preserve_paths=True)
        archive = saved(backup, kept)
    assert archive[f"{tree}/sub/script.sh".lstrip("/")].data == b"#!/bin/sh\necho hello\n"
    assert all(name.startswith(f"{tree}/".lstrip("/")) for name in archive.names)


def test_name_puts_everything_under_that_directory(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree, name="special")
        archive = saved(backup, kept)
    assert archive["special/hello.txt"].data == b"hello\n" * 100
    assert all(name.startswith("special/") for name in archive.names)


def test_name_and_preserve_paths_nest(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree, True, "special")
        archive = saved(backup, kept)
    assert archive[f"special{tree}/hello.txt"].data == b"hello\n" * 100
    assert all(name.startswith(f"special{tree}/") for name in archive.names)


def test_the_same_name_more_than_once_merges(tree: Path, kept: Path) -> None:
    (tree / "empty" / "only-here").write_text("x")
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree / "sub", name="same")
        backup.include_directory(tree / "empty", name="same")
        archive = saved(backup, kept)
    files = {"same/script.sh", "same/deeper/file", "same/only-here"}
    assert set(archive.contents()) == files
    assert archive.names.count("same/") == 1


def test_a_name_of_several_parts_nests(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree / "sub", name="/a/b/")
        assert "a/b/script.sh" in saved(backup, kept)


@pytest.mark.parametrize("name", ["", "/", "..", "a/../b", ".", "a//b", "a\0b", "\ud800"])
def test_a_name_that_leads_elsewhere_is_refused(tree: Path, name: str) -> None:
    with storelet.ZipBackup("example") as backup:
        for include in (
            lambda: backup.include_directory(tree, name=name),
            lambda: backup.include_file(tree / "hello.txt", name=name),
            lambda: backup.include_new_dir(name),
        ):
            with pytest.raises(storelet.UsageError, match="not a name inside an archive"):
                include()
        backup.close()


def test_a_relative_path_is_one_from_here(
    tree: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    with storelet.ZipBackup("example") as backup:
        backup.include_directory("sub/../sub", preserve_paths=True)
        assert f"{tree}/sub/script.sh".lstrip("/") in saved(backup, kept)


def test_an_empty_path_is_refused_and_not_the_current_directory(kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        for call in (backup.include_directory, backup.include_file, backup.save_to_directory):
            with pytest.raises(storelet.UsageError, match="empty"):
                call("")
        backup.save_to_directory(kept)


def test_a_missing_directory_is_a_clear_error_that_names_it(tmp_path: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        with pytest.raises(storelet.StoreletError, match=f"no such directory: {tmp_path}/none"):
            backup.include_directory(tmp_path / "none")
        with pytest.raises(storelet.SourceMissingError, match=f"no such file: {tmp_path}/none"):
            backup.include_file(tmp_path / "none")
        assert saved(backup, kept).members == []


def test_a_file_goes_under_its_own_name_or_another(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_file(tree / "hello.txt")
        backup.include_file(tree / "hello.txt", name="sub/other")
        backup.include_file(tree / "link")
        contents = saved(backup, kept).contents()
    assert set(contents) == {"hello.txt", "sub/other", "link"}
    assert set(contents.values()) == {b"hello\n" * 100}


def test_excluded_files_stay_out(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree, name="x", exclude=["*.txt", "/sub/deeper/"])
        names = saved(backup, kept).names
    assert "x/sub/script.sh" in names
    assert not any(name.endswith(".txt") or "deeper" in name for name in names)


def test_one_string_of_patterns_is_refused(tree: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        with pytest.raises(storelet.UsageError, match=r"exclude.*exclude=\['\*\.txt'\]"):
            backup.include_directory(tree, exclude="*.txt")
        with pytest.raises(storelet.UsageError, match="exclude_if_present"):
            backup.include_directory(tree, exclude_if_present=".nobackup")


def test_a_second_file_of_a_name_is_skipped_and_says_which_file_has_it(
    tree: Path, kept: Path, caplog: pytest.LogCaptureFixture, events: list[Event]
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_file(tree / "hello.txt", name="x")
        backup.include_file(tree / "secret", name="x")
        assert saved(backup, kept).contents() == {"x": b"hello\n" * 100}
    reason = f"x is taken by {tree}/hello.txt; give another name="
    assert Skipped(path=str(tree / "secret"), reason=reason) in events
    message = f"Skipped {tree}/secret: {reason}"
    assert ("storelet", logging.WARNING, message) in caplog.record_tuples


def test_earlier_archives_of_the_backup_inside_a_source_are_passed_over(
    tree: Path, events: list[Event]
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree / "sub")
        backup.save_to_directory(tree / "empty")
    (archive,) = (tree / "empty").iterdir()
    earlier = archive.read_bytes()
    archive.unlink()
    events.clear()
    (tree / "example_20130421163000.zip").write_bytes(earlier)
    (tree / "sub" / "example_20130421163001.zip").write_bytes(earlier)
    (tree / "other_20130421163000.zip").write_bytes(earlier)
    (tree / "example_20130421163003.zip").write_text("an ordinary file, whatever its name")
    (tree / "example_20130421163004.zip").write_bytes(earlier[:-1])
    (tree / "example_2013.zip").write_text("no archive")
    (tree / "sub" / "example_20130421163002.zip").mkdir()
    (tree / "sub" / "example_20130421163002.zip" / "file").touch()
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        backup.save_to_directory(tree)
        names = saved(backup, tree / "empty").names
    assert {name for name in names if "_2013" in name} == {
        "other_20130421163000.zip",
        "example_20130421163003.zip",
        "example_20130421163004.zip",
        "example_2013.zip",
        "sub/example_20130421163002.zip/",
        "sub/example_20130421163002.zip/file",
    }
    assert sum(isinstance(event, Passed) for event in events) == 2


def test_an_earlier_archive_asked_for_by_its_name_is_included(tree: Path, kept: Path) -> None:
    (tree / "example_20130421163000.zip").write_text("an archive")
    with storelet.ZipBackup("example") as backup:
        backup.include_file(tree / "example_20130421163000.zip")
        assert len(saved(backup, kept).members) == 1


# When files are read, and those that cannot be ---------------------------------------------------


def test_files_are_read_when_they_are_included(tree: Path, kept: Path) -> None:
    expected = {"tree/" + name: data for name, data in included(tree, kept).items()}
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree, name="tree")
        shutil.rmtree(tree)
        assert saved(backup, kept).contents() == expected


def included(path: Path, kept: Path) -> dict[str, bytes]:
    with storelet.ZipBackup("included") as backup:
        backup.include_directory(path)
        return saved(backup, kept).contents()


def test_a_file_that_vanishes_is_a_warning_and_the_rest_goes_on(
    tree: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def vanish(event: Event) -> None:
        if isinstance(event, Passed):  # found, and not yet read
            (tree / "secret").unlink()

    os.mkfifo(tree / "zzz")
    with storelet.observe(vanish), storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        archive = saved(backup, kept)
    assert "secret" not in archive
    assert archive["sub/script.sh"].data == b"#!/bin/sh\necho hello\n"
    message = f"Skipped {tree}/secret: it vanished"
    assert ("storelet", logging.WARNING, message) in caplog.record_tuples


def test_a_file_that_cannot_be_read_is_a_warning_with_the_reason_and_the_rest_goes_on() -> None:
    done = run_script(
        AS_PLAIN_USER
        + """
storelet.setup_logging()
with tempfile.TemporaryDirectory() as top:
    for name in ("a", "b", "c"):
        open(f"{top}/{name}", "w").close()
    os.mkdir(f"{top}/d", 0)
    os.chmod(f"{top}/b", 0)
    figures = storelet.Figures()
    with storelet.observe(figures.count), storelet.ZipBackup("example") as backup:
        backup.include_directory(top)
        os.mkdir(f"{top}/kept")
        url = backup.save_to_directory(f"{top}/kept")
    print(zipfile.ZipFile(url.removeprefix("file://")).namelist())
    print(figures.files, figures.skipped)
"""
    )
    *log, names, figures = done.stdout.splitlines()
    assert [line.partition(" [")[2].rpartition("/")[2] for line in log[:4]] == [
        "d: Permission denied",
        "a",
        "b: Permission denied",
        "c",
    ]
    assert log[2].partition(" [")[2].startswith("WARNING]: Skipped /")
    assert names == "['d/', 'a', 'c']"
    assert figures == "2 2"


def test_fifos_and_sockets_are_passed_over_and_never_block(
    tree: Path, kept: Path, caplog: pytest.LogCaptureFixture, events: list[Event]
) -> None:
    caplog.set_level(logging.INFO)
    os.mkfifo(tree / "fifo")
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        assert "fifo" not in saved(backup, kept)
    assert Passed(path=str(tree / "fifo"), reason="it is a FIFO") in events
    assert not any(isinstance(event, Skipped) for event in events)
    message = f"Passed over {tree}/fifo: it is a FIFO"
    assert ("storelet", logging.INFO, message) in caplog.record_tuples


@pytest.mark.skipif(not os.path.isdir("/dev/fd/"), reason="there is no /dev")
def test_a_directory_of_devices_is_walked_without_opening_one(kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory("/dev", exclude=["/shm", "/mqueue", "/hugepages", "/fd"])
        names = saved(backup, kept).names
    assert not {"null", "zero", "random", "tty", "kmsg"} & set(names)


def test_a_file_that_changes_while_it_is_read_is_kept_and_warned_of(
    tmp_path: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    path.write_bytes(os.urandom(8 << 20))
    stop = threading.Event()

    def write_on() -> None:
        while not stop.is_set():
            with path.open("ab") as file:
                file.write(b"one more line\n")

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        with storelet.ZipBackup("example") as backup:
            backup.include_file(path)
            archive = saved(backup, kept)
    finally:
        stop.set()
        writer.join()
    data = archive["log"].data
    assert path.read_bytes().startswith(data)
    assert len(data) >= 8 << 20
    message = f"{path} changed while it was read; kept as read"
    assert ("storelet", logging.WARNING, message) in caplog.record_tuples


# Produced directories ---------------------------------------------------------------------------


def test_a_new_directory_is_included_under_its_name_and_removed(
    tree: Path, kept: Path, temporary: Path
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree / "sub")
        with backup.include_new_dir("generated_directory") as d:
            assert str(d) == d.path == f"{d}"
            assert Path(d.path).parent == temporary
            assert stat.S_IMODE(os.stat(d.path).st_mode) == 0o700
            subprocess.run(["touch", f"{d}/touched.file"], check=True)
            Path(d.path, "sub").mkdir()
            Path(d.path, "sub", "dump").write_text("rows")
        assert list(temporary.iterdir()) == []
        contents = saved(backup, kept).contents()
    assert contents["generated_directory/touched.file"] == b""
    assert contents["generated_directory/sub/dump"] == b"rows"
    assert contents["script.sh"] == b"#!/bin/sh\necho hello\n"


def test_a_new_directory_merges_with_others_of_its_name(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree / "sub", name="same")
        for name in ("one", "two"):
            with backup.include_new_dir("same") as d:
                Path(d.path, name).touch()
        assert {"same/one", "same/two", "same/script.sh"} <= set(saved(backup, kept).names)


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_new_directory_is_removed_and_not_included_after_an_exception(
    kept: Path, temporary: Path, raised: type[BaseException]
) -> None:
    with storelet.ZipBackup("example") as backup:
        with pytest.raises(raised), backup.include_new_dir("generated") as d:
            Path(d.path, "half").touch()
            raise raised
        assert list(temporary.iterdir()) == []
        assert saved(backup, kept).members == []


def test_a_new_directory_is_removed_though_its_permissions_were_taken_away() -> None:
    run_script(
        AS_PLAIN_USER
        + """
with tempfile.TemporaryDirectory() as top:
    tempfile.tempdir = top
    with storelet.ZipBackup("example") as backup:
        with backup.include_new_dir("generated") as d:
            os.makedirs(f"{d}/a/b/c")
            open(f"{d}/a/b/c/file", "w").close()
            os.chmod(f"{d}/a/b/c", 0o555)
            os.chmod(f"{d}/a/b", 0)
            os.chmod(f"{d}/a", 0o500)
        try:
            with backup.include_new_dir("generated") as d:
                os.mkdir(f"{d}/sub")
                os.chmod(d.path, 0)
        except storelet.SourceError as error:
            print(error)
        backup.save_to_directory(top)
    assert len(os.listdir(top)) == 1, os.listdir(top)
"""
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave another user's directory")
def test_a_new_directory_loses_all_that_may_be_removed_and_the_rest_is_warned_of() -> None:
    done = run_script(
        """
import os, storelet, tempfile
storelet.setup_logging()
with tempfile.TemporaryDirectory() as top:
    os.chmod(top, 0o777)
    tempfile.tempdir = top
    backup = storelet.ZipBackup("example")
    os.seteuid(65534)
    with backup, backup.include_new_dir("generated") as d:
        os.seteuid(0)
        os.mkdir(f"{d}/a-root")
        os.mkdir(f"{d}/a-root/locked", 0o700)
        os.seteuid(65534)
        os.mkdir(f"{d}/ours")
        open(f"{d}/ours/file", "w").close()
        os.chmod(f"{d}/ours", 0)
    os.seteuid(0)
    print(os.listdir(d.path))
"""
    )
    assert "[WARNING]: Could not remove temporary directory /" in done.stdout
    assert done.stdout.splitlines()[-1] == "['a-root']"


def test_what_is_mounted_in_a_new_directory_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("not to be lost")
    done = run_with_mounts(
        "",
        """
import os, storelet, subprocess, sys
os.environ["TMPDIR"] = sys.argv[1]
storelet.setup_logging()
with storelet.ZipBackup("example") as backup:
    for place in ("", "/mount point"):
        try:
            with backup.include_new_dir("generated") as d:
                os.makedirs(d.path + place, exist_ok=True)
                subprocess.run(["mount", "--bind", f"{sys.argv[1]}/precious", d.path + place],
                               check=True)
                raise ValueError
        except ValueError:
            pass
    backup.save_to_directory(sys.argv[1])
""",
        tmp_path,
    )
    assert (tmp_path / "precious" / "file").read_text() == "not to be lost"
    warnings = [line for line in done.stdout.splitlines() if "[WARNING]" in line]
    assert len(warnings) == 2
    assert all("is mounted in it" in line for line in warnings)


def test_a_link_in_a_new_directory_is_removed_and_not_what_it_leads_to(
    tree: Path, temporary: Path
) -> None:
    with storelet.ZipBackup("example") as backup:
        with backup.include_new_dir("generated") as d:
            os.symlink(tree, f"{d}/link")
        backup.close()
    assert (tree / "sub" / "script.sh").exists()
    assert stat.S_IMODE((tree / "secret").stat().st_mode) == 0o600
    assert list(temporary.iterdir()) == []


def test_a_new_directory_is_not_included_by_a_source_around_it(kept: Path, temporary: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        with backup.include_new_dir("generated") as d:
            Path(d.path, "inside").touch()
            backup.include_directory(temporary, name="around")
        names = saved(backup, kept).names
    assert names == ["around/", "generated/", "generated/inside"]


# Saving -----------------------------------------------------------------------------------------


def test_a_backup_may_be_saved_several_times_and_to_several_places(
    tree: Path, kept: Path, bucket: Bucket, events: list[Event]
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        urls = [
            backup.save_to_s3(bucket.name, bucket.access_key, bucket.secret_key, prefix="one/"),
            backup.save_to_directory(kept),
            backup.save_to_s3(bucket.name, bucket.access_key, bucket.secret_key, prefix="two/"),
        ]
    first, second = map(bucket.read, bucket.keys())
    assert first == second == Path(unquote(urlsplit(urls[1]).path)).read_bytes()
    assert [event.url for event in events if isinstance(event, Saved)] == urls


def test_more_may_be_included_after_a_save(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_file(tree / "hello.txt")
        first = backup.save_to_directory(kept)
        backup.include_file(tree / "secret")
        second = backup.save_to_directory(kept)
    assert opened(first).names == ["hello.txt"]
    assert opened(second).names == ["hello.txt", "secret"]


def test_a_save_that_failed_may_be_tried_again(tree: Path, kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        with pytest.raises(storelet.DestinationMissingError):
            backup.save_to_directory(kept / "none")
        (kept / "none").mkdir()
        assert saved(backup, kept / "none").contents()["hello.txt"] == b"hello\n" * 100


@freezegun.freeze_time("2013-04-21 16:30:59")
def test_a_name_that_is_taken_is_never_overwritten(tree: Path, kept: Path, bucket: Bucket) -> None:
    taken = "example_20130421163059.zip"
    (kept / taken).write_text("mine")
    bucket.client.put_object(Bucket=bucket.name, Key=taken, Body=b"mine")
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        backup.save_to_directory(kept)
        backup.save_to_s3(bucket.name, bucket.access_key, bucket.secret_key)
    assert (kept / taken).read_text() == "mine"
    assert bucket.read(taken) == b"mine"
    after = "example_20130421163100.zip"
    assert sorted(os.listdir(kept)) == bucket.keys() == [taken, after]
    assert parse_zip((kept / after).read_bytes()).names
    assert parse_zip(bucket.read(after)).names


@freezegun.freeze_time("2013-04-21 16:30:00")
def test_a_name_taken_by_a_dangling_link_is_not_written_through(tree: Path, kept: Path) -> None:
    taken = kept / "example_20130421163000.zip"
    taken.symlink_to(kept / "elsewhere")
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        backup.save_to_directory(kept)
    assert taken.is_symlink()
    assert not (kept / "elsewhere").exists()


@freezegun.freeze_time("2013-04-21 16:30:00")
def test_many_saves_in_one_second_all_get_names(tree: Path, kept: Path) -> None:
    backups = [storelet.ZipBackup("example") for _ in range(8)]
    barrier = threading.Barrier(len(backups))
    urls: list[str] = []

    def save(number: int, backup: storelet.ZipBackup) -> None:
        with backup:
            backup.include_file(tree / "hello.txt", name=f"of-{number}")
            barrier.wait()
            urls.append(backup.save_to_directory(kept))

    threads = [threading.Thread(target=save, args=each) for each in enumerate(backups)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(urls)) == len(os.listdir(kept)) == 8
    assert sorted(name for url in urls for name in opened(url).names) == [
        f"of-{number}" for number in range(8)
    ]


@freezegun.freeze_time("2013-04-21 16:30:00")
def test_when_all_names_of_a_minute_are_taken_it_is_an_error(tree: Path, kept: Path) -> None:
    for second in range(60):
        (kept / f"example_201304211630{second:02}.zip").touch()
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        with pytest.raises(storelet.ArchiveExistsError, match=f"all taken in directory {kept}"):
            backup.save_to_directory(kept)
    assert len(os.listdir(kept)) == 60


def test_several_threads_may_include_into_one_backup(tmp_path: Path, kept: Path) -> None:
    directories = [tmp_path / str(number) for number in range(4)]
    for directory in directories:
        directory.mkdir()
        for number in range(50):
            (directory / f"{directory.name}-{number}").write_bytes(os.urandom(5_000))
    with storelet.ZipBackup("example") as backup:
        threads = [
            threading.Thread(target=backup.include_directory, args=[directory])
            for directory in directories
        ]
        for thread in threads:
            thread.start()
        early = backup.save_to_directory(kept)
        for thread in threads:
            thread.join()
        contents = saved(backup, kept).contents()
    assert len(contents) == 200
    for name, data in (contents | opened(early).contents()).items():
        assert data == (tmp_path / name.partition("-")[0] / name).read_bytes()


def test_the_archive_says_of_which_job_host_and_time_it_is(kept: Path) -> None:
    before = time.time_ns()
    with storelet.ZipBackup("exämple") as backup:
        with backup.include_new_dir("d"):
            pass
        record = saved(backup, kept).members[0].private.archive
    assert record is not None
    started, job, host = record
    assert before <= started <= time.time_ns()
    assert (job, host) == ("exämple", os.uname().nodename)


def test_the_archive_says_where_its_members_came_from(kept: Path, tree: Path) -> None:
    file = next(path for path in tree.rglob("*") if path.is_file())
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree, name="named")
        backup.include_directory(tree, preserve_paths=True)
        backup.include_file(file, name="alone")
        with backup.include_new_dir("made"):
            pass
        private = saved(backup, kept).members[0].private
    assert set(private.sources) == {
        ("named/", str(tree)),
        (f"{str(tree)[1:]}/", str(tree)),
        ("alone", str(file)),
        ("made/", ""),
    }


def test_a_backup_of_nothing_is_an_empty_zip(kept: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        assert saved(backup, kept).members == []


@pytest.mark.parametrize("name", ["", "a/b", "/", "a\nb", "a\0b", "\udcff", "n" * 233, "ü" * 117])
def test_a_name_that_cannot_be_a_files_is_refused_at_once(name: str) -> None:
    with pytest.raises(storelet.UsageError, match="not a name for a backup"):
        storelet.ZipBackup(name)


def test_other_names_work_on_every_destination(kept: Path, bucket: Bucket) -> None:
    for name in ("a b", "ü ✓", "-rf", ".", "100%", "{x}", "%Y", "n" * 232):
        with storelet.ZipBackup(name) as backup:
            saved(backup, kept)
            backup.save_to_s3(bucket.name, bucket.access_key, bucket.secret_key)
        assert [key for key in bucket.keys() if key.startswith(f"{name}_20")]  # noqa: SIM118
        assert list(kept.glob(f"{glob.escape(name)}_20*.zip"))


# After the end, and in the middle ----------------------------------------------------------------


def test_after_its_end_a_backup_writes_to_no_descriptor_that_was_used_again(
    tree: Path, kept: Path, tmp_path: Path
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        backup.save_to_directory(kept)
    with (tmp_path / "another").open("w+b") as another:
        for call in (
            lambda: backup.include_file(tree / "hello.txt"),
            lambda: backup.include_directory(tree),
            lambda: backup.save_to_directory(kept),
            lambda: backup.save_to_s3("my-bucket"),
        ):
            with pytest.raises(storelet.UsageError, match="backup example has ended"):
                call()
        another.seek(0)
        assert another.read() == b""
    assert len(os.listdir(kept)) == 1


def test_ending_without_a_save_is_warned_of(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
    message = "Backup example ended without having been saved anywhere"
    assert ("storelet", logging.WARNING, message) in caplog.record_tuples


def test_what_broke_off_in_the_middle_of_a_file_is_never_saved(tmp_path: Path, kept: Path) -> None:
    done = run_script(
        """
import os, resource, storelet, sys
with open(f"{sys.argv[1]}/large", "wb") as file:
    file.write(os.urandom(4 << 20))
with open(f"{sys.argv[1]}/small", "wb") as file:
    file.write(b"small")
with storelet.ZipBackup("example") as backup:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
    try:
        backup.include_file(f"{sys.argv[1]}/large")
    except storelet.StoreletError as error:
        print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    for again in (
        lambda: backup.include_file(f"{sys.argv[1]}/small"),
        lambda: backup.save_to_directory(sys.argv[2]),
    ):
        try:
            again()
        except storelet.StoreletError as error:
            print(error)
""",
        tmp_path,
        kept,
    )
    first, *others = done.stdout.splitlines()
    assert first.startswith("StoreletError cannot write temporary files in ")
    assert first.endswith(": File too large (set TMPDIR to a directory with enough room)")
    assert len(others) == 2
    assert all("backup example broke off in the middle of a file" in line for line in others)
    assert os.listdir(kept) == []


def test_a_temporary_archive_that_was_cut_off_is_never_saved(
    tree: Path, kept: Path, temporary: Path
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        (descriptor,) = descriptors_in(temporary)
        os.truncate(descriptor, 100)
        with pytest.raises(storelet.StoreletError, match=r"temporary files in .* not there any"):
            backup.save_to_directory(kept)
        assert os.listdir(kept) == []


def descriptors_in(directory: Path) -> list[Path]:
    """Find our descriptors of files in a directory, by their entries in /proc."""
    return [
        link
        for link in Path("/proc/self/fd").iterdir()
        if os.path.lexists(link) and os.readlink(link).startswith(f"{directory}/")
    ]


# Full disks, and temporary files ------------------------------------------------------------------

BACK_UP = """
import os, storelet, sys
source, temporary, kept = sys.argv[1:]
os.environ["TMPDIR"] = temporary
before = os.listdir("/proc/self/fd")
try:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(source)
        backup.save_to_directory(kept)
except storelet.StoreletError as error:
    print(type(error).__name__, error)
print(os.listdir(temporary), os.listdir(kept), os.listdir("/proc/self/fd") == before)
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Make a directory with more in it than the small disks of these tests hold."""
    path = tmp_path / "large"
    path.mkdir()
    (path / "file").write_bytes(os.urandom(3 << 20))
    return path


def test_a_full_temporary_directory_is_an_error_that_names_it_and_nothing_is_left(
    large: Path, kept: Path, tmp_path: Path
) -> None:
    (temporary := tmp_path / "small").mkdir()
    done = run_with_mounts('mount -t tmpfs -o size=1m none "$2"', BACK_UP, large, temporary, kept)
    assert done.stdout.splitlines() == [
        f"StoreletError cannot write temporary files in {temporary}: No space left on device "
        "(set TMPDIR to a directory with enough room)",
        "[] [] True",
    ]


def test_a_full_destination_is_an_error_that_names_it_and_nothing_is_left(
    large: Path, kept: Path, tmp_path: Path
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    done = run_with_mounts('mount -t tmpfs -o size=1m none "$3"', BACK_UP, large, temporary, kept)
    assert done.stdout.splitlines() == [
        f"DestinationError cannot write to directory {kept}: No space left on device "
        "(make room there or choose another directory)",
        "[] [] True",
    ]


def test_no_place_for_temporary_files_at_all_is_an_error_that_says_so(
    large: Path, kept: Path
) -> None:
    done = run_with_mounts(
        "unset TMPDIR\n"
        "for place in /tmp /var/tmp /usr/tmp; do\n"
        "[ ! -d $place ] || { mount --rbind $place $place; mount -o remount,bind,ro $place; }\n"
        "done\n"
        "cd /proc",
        """
import storelet
try:
    storelet.ZipBackup("example")
except storelet.StoreletError as error:
    print(error)
try:
    storelet.NewDirectory("x", None).__enter__()
except storelet.StoreletError as error:
    print(error)
""",
    )
    assert len(done.stdout.splitlines()) == 2
    for line in done.stdout.splitlines():
        assert line.startswith("cannot write temporary files: No usable temporary directory")
        assert line.endswith("(set TMPDIR to a directory with enough room)")


def test_temporary_files_go_to_tmpdir_and_have_no_name(tree: Path, temporary: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        assert len(descriptors_in(temporary)) == 1
        assert list(temporary.iterdir()) == []
        backup.close()


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "raise ValueError",
        "sys.exit(3)",
        "raise KeyboardInterrupt",
        "os.kill(os.getpid(), signal.SIGINT)",
        "backup.include_directory('/no/such/directory')",
        "backup.save_to_directory('/no/such/directory')",
        "backup.save_to_s3('my-bucket', 'key', 'secret', endpoint_url='nonsense')",
        "sys.modules.clear(); sys.exit()",
    ],
)
@pytest.mark.parametrize("within", ["if True", "with backup.include_new_dir('generated') as d"])
def test_no_temporary_file_is_left_whatever_happens_in_the_block(
    tree: Path, tmp_path: Path, ending: str, within: str
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    run_script(
        f"""
import os, signal, storelet, sys
with storelet.ZipBackup("example") as backup:
    backup.include_directory(sys.argv[1])
    with backup.include_new_dir("first") as first:
        open(f"{{first}}/file", "w").close()
    {within}:
        {ending}
""",
        tree,
        environment={"TMPDIR": str(temporary)},
        check=False,
    )
    assert list(temporary.iterdir()) == []


def test_not_even_a_kill_leaves_the_temporary_archive(tree: Path, tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    done = run_script(
        """
import os, signal, storelet, sys
with storelet.ZipBackup("example") as backup:
    backup.include_directory(sys.argv[1])
    os.kill(os.getpid(), signal.SIGKILL)
""",
        tree,
        environment={"TMPDIR": str(temporary)},
        check=False,
    )
    assert done.returncode == -9
    assert list(temporary.iterdir()) == []


def test_no_descriptor_is_left_open(tree: Path, kept: Path, bucket: Bucket) -> None:
    before = os.listdir("/proc/self/fd")
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        with backup.include_new_dir("d"):
            pass
        backup.save_to_directory(kept)
        with pytest.raises(storelet.DestinationMissingError):
            backup.save_to_directory(kept / "none")
        backup.save_to_s3(bucket.name, bucket.access_key, bucket.secret_key)
    assert os.listdir("/proc/self/fd") == before


# A script ----------------------------------------------------------------------------------------


def test_a_backup_without_patterns_and_buckets_loads_neither_boto3_nor_pathspec(
    tree: Path, kept: Path
) -> None:
    run_script(
        """
import storelet, sys
with storelet.ZipBackup("example") as backup:
    backup.include_directory(sys.argv[1], exclude_caches=True)
    backup.save_to_directory(sys.argv[2])
assert not {"boto3", "botocore", "pathspec", "deflate", "zlib_ng"} & set(sys.modules)
""",
        tree,
        kept,
    )
