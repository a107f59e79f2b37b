"""A directory as a destination, on file systems and with permissions of all kinds."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import storelet
from storelet.destination.directory import Directory
from tests.scripts import AS_PLAIN_USER, REFUSING, run_script, run_with_mounts

NAME = "example_20130421163000.zip"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make a directory to save archives to."""
    path = tmp_path / "kept"
    path.mkdir()
    return path


def test_an_archive_has_no_name_until_it_is_whole(kept: Path) -> None:
    upload = Directory(kept).open_upload(NAME, {})
    upload.write(b"first")
    upload.write(b"second")
    assert os.listdir(kept) == []
    url = upload.commit()
    assert os.listdir(kept) == [NAME]
    assert (kept / NAME).read_bytes() == b"firstsecond"
    assert url == f"file://{kept}/{NAME}"


def test_an_archive_is_its_owners_alone(kept: Path) -> None:
    before = os.umask(0)
    try:
        upload = Directory(kept).open_upload(NAME, {})
        upload.commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE((kept / NAME).stat().st_mode) == 0o600


def test_a_mark_is_its_owners_alone_and_stands_when_its_text_is_missing(kept: Path) -> None:
    """As after a full disk, or a power cut: the name alone makes it."""
    destination = Directory(kept)
    destination.open_upload(NAME, {}).commit()
    (archive,) = destination.list_archives("example")
    before = os.umask(0)
    try:
        destination.mark_bad(archive, "because")
    finally:
        os.umask(before)
    mark = kept / f"{NAME}.bad"
    assert stat.S_IMODE(mark.stat().st_mode) == 0o600
    mark.write_bytes(b"")
    assert [each.is_bad for each in destination.list_archives("example")] == [True]


def test_a_directory_that_takes_no_mark_is_an_error_that_says_so() -> None:
    done = run_script(
        AS_PLAIN_USER
        + """
import os, storelet, tempfile
os.chdir(tempfile.mkdtemp())
destination = storelet.Directory(".")
destination.open_upload("example_20130421163000.zip", {}).commit()
(archive,) = destination.list_archives("example")
os.chmod(".", 0o500)
try:
    destination.mark_bad(archive, "because")
except storelet.PermissionDeniedError as error:
    print(error.message.partition(":")[0].split()[:3], error.exit_code)
os.chmod(".", 0o700)
"""
    )
    assert done.stdout == "['cannot', 'write', 'to'] 77\n"


def test_a_url_is_one_for_any_directory(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"a b%\xff#?")
    odd.mkdir()
    assert Directory(odd).open_upload(NAME, {}).commit().endswith(f"/a%20b%25%FF%23%3F/{NAME}")


def test_a_relative_directory_stays_where_it_was(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kept.parent)
    destination = Directory("kept")
    upload = destination.open_upload(NAME, {})
    monkeypatch.chdir("/")
    assert upload.commit() == f"file://{kept}/{NAME}"
    assert str(destination) == f"directory {kept}"


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("missing", "no such directory: {kept}/missing", "mkdir -p {kept}/missing"),
        ("mis sing", "no such directory: {kept}/mis sing", "mkdir -p '{kept}/mis sing'"),
        ("file", "not a directory: {kept}/file", "a directory"),
        ("file/sub", "not a directory: {kept}/file/sub", "a directory"),
    ],
)
def test_a_place_that_is_none_is_an_error_that_names_it(
    kept: Path, path: str, message: str, hint: str
) -> None:
    (kept / "file").touch()
    with pytest.raises(storelet.DestinationMissingError) as raised:
        Directory(kept / path).open_upload(NAME, {})
    assert raised.value.message == message.format(kept=kept)
    assert hint.format(kept=kept) in str(raised.value.hint)
    assert raised.value.exit_code == 10


def test_a_directory_that_is_gone_in_the_end_is_an_error(kept: Path) -> None:
    upload = Directory(kept).open_upload(NAME, {})
    upload.write(b"data")
    kept.rmdir()
    with pytest.raises(storelet.DestinationMissingError, match=f"no such directory: {kept}"):
        upload.commit()
    assert not kept.exists()


def test_places_that_may_not_be_written_are_errors_that_say_so() -> None:
    done = run_script(
        AS_PLAIN_USER
        + """
from storelet.destination.directory import Directory
with tempfile.TemporaryDirectory() as top:
    os.makedirs(f"{top}/closed/inside")
    os.mkdir(f"{top}/listed")
    os.chmod(f"{top}/closed", 0)
    os.chmod(f"{top}/listed", 0o500)
    for path in ("closed", "closed/inside", "listed"):
        try:
            Directory(f"{top}/{path}").open_upload("x.zip", {})
        except storelet.PermissionDeniedError as error:
            print(error.exit_code, str(error).replace(top, ""))
    os.chmod(f"{top}/closed", 0o700)
"""
    )
    assert done.stdout.splitlines() == [
        f"77 cannot write to directory /{path}: Permission denied (see: ls -ld /{path})"
        for path in ("closed", "closed/inside", "listed")
    ]


def test_a_directory_that_may_be_written_but_not_listed_takes_archives() -> None:
    done = run_script(
        AS_PLAIN_USER
        + """
from storelet.destination.directory import Directory
with tempfile.TemporaryDirectory() as top:
    os.mkdir(f"{top}/dropbox")
    os.chmod(f"{top}/dropbox", 0o300)
    upload = Directory(f"{top}/dropbox").open_upload("x.zip", {})
    upload.write(b"data")
    print(upload.commit().replace(top, ""))
    os.chmod(f"{top}/dropbox", 0o700)
    print(os.listdir(f"{top}/dropbox"))
"""
    )
    assert done.stdout.splitlines() == ["file:///dropbox/x.zip", "['x.zip']"]


def test_a_read_only_file_system_is_an_error_with_a_hint(kept: Path) -> None:
    done = run_with_mounts(
        'mount -t tmpfs -o ro none "$1"',
        """
import storelet, sys
from storelet.destination.directory import Directory
try:
    Directory(sys.argv[1]).open_upload("x.zip", {})
except storelet.PermissionDeniedError as error:
    print(error)
""",
        kept,
    )
    assert f"cannot write to directory {kept}: Read-only file system (" in done.stdout
    assert "ReadWritePaths=" in done.stdout


def test_a_file_that_gets_too_large_is_an_error_with_a_hint(kept: Path) -> None:
    done = run_script(
        """
import os, resource, storelet, sys
from storelet.destination.directory import Directory
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
upload = Directory(sys.argv[1]).open_upload("x.zip", {})
try:
    upload.write(bytes(1001))
except storelet.DestinationError as error:
    print(error)
    upload.abort()
""",
        kept,
    )
    assert done.stdout.startswith(f"cannot write to directory {kept}: File too large (")
    assert "ulimit -f" in done.stdout
    assert os.listdir(kept) == []


# File systems that lack something, as the kernel answers for them ---------------------------------

UPLOADING = """
import os, sys
from storelet.destination.directory import Directory
kept = sys.argv[1]
destination = Directory(kept)
def show(*more):
    names = sorted(os.listdir(kept))
    hidden = [name for name in names if name.startswith(".storelet-") and name.endswith(".part")]
    print(f"{len(hidden)} hidden,", *(name for name in names if name not in hidden), *more)
first = destination.open_upload("x.zip", {})
second = destination.open_upload("x.zip", {})
first.write(b"whole")
second.write(b"another")
show()
first.commit()
show()
try:
    second.commit()
except storelet.ArchiveExistsError as error:
    print(str(error).replace(kept, "kept"))
second.abort()
show(open(f"{kept}/x.zip").read())
third = destination.open_upload("y.zip", {})
third.write(b"half")
third.abort()
third.abort()
show()
"""


def promises_of(rules: str, kept: Path) -> list[str]:
    return run_script(f"{REFUSING}\nrefuse({rules})\n{UPLOADING}", kept).stdout.splitlines()


@pytest.mark.parametrize(
    "rules",
    [
        "('O_TMPFILE', errno.EOPNOTSUPP)",
        "('O_TMPFILE', errno.EISDIR)",
        "('O_TMPFILE', errno.EOPNOTSUPP), ('link', errno.EPERM), ('linkat', errno.EPERM)",
        "('O_TMPFILE', errno.EOPNOTSUPP), ('link', errno.ENOSYS), ('linkat', errno.ENOSYS)",
        "('O_TMPFILE', errno.EOPNOTSUPP), ('link', errno.EOPNOTSUPP), ('linkat', errno.EOPNOTSUPP)",
    ],
    ids=["no O_TMPFILE", "old kernel", "links EPERM", "links ENOSYS", "links EOPNOTSUPP"],
)
def test_file_systems_without_unnamed_files_or_hard_links_keep_the_promises(
    kept: Path, rules: str
) -> None:
    assert promises_of(rules, kept) == [
        "2 hidden,",
        "1 hidden, x.zip",
        "the name is taken in directory kept",
        "0 hidden, x.zip whole",
        "0 hidden, x.zip",
    ]


def test_the_promises_hold_where_nothing_is_lacking(kept: Path) -> None:
    assert promises_of("", kept) == [
        "0 hidden,",
        "0 hidden, x.zip",
        "the name is taken in directory kept",
        "0 hidden, x.zip whole",
        "0 hidden, x.zip",
    ]


def test_a_machine_without_proc_keeps_the_promises(kept: Path) -> None:
    done = run_with_mounts(
        "mount -t tmpfs none /proc",
        """
import os, sys, storelet
with storelet.ZipBackup("example") as backup:
    with backup.include_new_dir("d"):
        pass
    backup.save_to_directory(sys.argv[1])
print(len(os.listdir(sys.argv[1])))
""",
        kept,
    )
    assert done.stdout == "1\n"


def test_a_disk_that_cannot_keep_what_was_written_is_an_error_and_no_archive(kept: Path) -> None:
    done = run_script(
        REFUSING
        + """
import os, sys
refuse(("fsync", errno.EIO))
try:
    with storelet.ZipBackup("example") as backup:
        backup.save_to_directory(sys.argv[1])
except storelet.DestinationError as error:
    print(error)
""",
        kept,
    )
    assert done.stdout == f"cannot write to directory {kept}: Input/output error\n"
    assert os.listdir(kept) == []


def test_a_temporary_archive_that_cannot_be_read_back_is_an_error_and_no_archive(
    kept: Path,
) -> None:
    done = run_script(
        REFUSING
        + """
import os, sys
try:
    with storelet.ZipBackup("example") as backup:
        backup.include_file("/etc/passwd")
        refuse(("pread", errno.EIO))
        backup.save_to_directory(sys.argv[1])
except storelet.StoreletError as error:
    print(error)
""",
        kept,
    )
    assert done.stdout.startswith("cannot write temporary files in ")
    assert os.listdir(kept) == []


def test_a_kill_in_the_middle_leaves_nothing(kept: Path) -> None:
    done = run_script(
        """
import os, signal, sys
from storelet.destination.directory import Directory
upload = Directory(sys.argv[1]).open_upload("x.zip", {})
upload.write(bytes(1 << 20))
os.kill(os.getpid(), signal.SIGKILL)
""",
        kept,
        check=False,
    )
    assert done.returncode == -9
    assert os.listdir(kept) == []


def test_what_cannot_be_removed_is_warned_of(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = run_script(
        REFUSING
        + """
import os, sys
from storelet.destination.directory import Directory
storelet.setup_logging()
refuse(("O_TMPFILE", errno.EOPNOTSUPP))
upload = Directory(sys.argv[1]).open_upload("x.zip", {})
(part,) = os.listdir(sys.argv[1])
os.unlink(f"{sys.argv[1]}/{part}")
upload.abort()
""",
        kept,
    )
    assert "[WARNING]: Could not remove " in done.stdout
