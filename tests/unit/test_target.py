"""What others do in a target meanwhile, or have put there, is no way out and is not replaced.

What an archive or an earlier restore puts there is in `test_hostile`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import storelet
from storelet.restore.paths import temporary_name
from tests.rawzip import RawMember, build_zip
from tests.scripts import REFUSING, run_script

NO_TEMPORARY = REFUSING + "refuse(('O_TMPFILE', errno.EOPNOTSUPP))\n"
# A target, and `write`, which puts one file there, for everybody, and says why not.
OPEN = """
import os, stat, storelet, sys
from pathlib import Path
from storelet.catalogue import DamagedError
from storelet.restore.paths import RefusedError
from storelet.restore.target import Target, open_root
top = Path(sys.argv[1])
there, temporary = top / "target", top / "target" / sys.argv[2]
(member,) = storelet.open_archive(top / "one.zip").members()
target = Target(open_root(str(there), make=False), replace=sys.argv[3] == "replace")
def write(content):
    try:
        target.write("file", member, content)
    except (DamagedError, RefusedError) as error:
        print(error)
"""
TEMPORARY = temporary_name("file")


def run_in_target(
    top: Path, text: str, *, before: str = NO_TEMPORARY, replace: bool = False
) -> str:
    """Run a script with a target that may have files without a name, or not; return its output."""
    (top / "one.zip").write_bytes(build_zip([RawMember(name=b"file", mode=0o100666)]))
    (top / "target").mkdir(exist_ok=True)
    how = "replace" if replace else "keep"
    return run_script(before + OPEN + text, top, TEMPORARY, how).stdout


@pytest.mark.parametrize("before", ["", NO_TEMPORARY], ids=["nameless files", "temporary names"])
def test_what_comes_there_meanwhile_is_not_replaced(tmp_path: Path, before: str) -> None:
    said = run_in_target(
        tmp_path,
        """
def content():
    yield b"content"
    (there / "file").write_text("theirs")
write(content())
""",
        before=before,
    )
    assert said == "something is there already\n"
    assert (tmp_path / "target" / "file").read_text() == "theirs"
    assert os.listdir(tmp_path / "target") == ["file"]


def test_what_is_not_whole_is_its_owners_alone_and_gone_when_it_breaks_off(tmp_path: Path) -> None:
    said = run_in_target(
        tmp_path,
        """
os.umask(0)
def content():
    yield b"content"
    print(stat.filemode(temporary.stat().st_mode))
    raise DamagedError("it breaks off")
write(content())
""",
    )
    assert said == "-rw-------\nit breaks off\n"
    assert os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("way", ["hard link", "link", "link to nothing"])
def test_what_has_a_temporary_name_is_not_written_to(
    tmp_path: Path, way: str, replace: bool
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    (tmp_path / "target").mkdir()
    taken = tmp_path / "target" / TEMPORARY
    if way == "hard link":
        taken.hardlink_to(outside)
    else:
        taken.symlink_to(outside if way == "link" else tmp_path / "planted")
    assert run_in_target(tmp_path, "write([b'content'])\n", replace=replace) == ""
    assert (outside.read_text(), stat.S_IMODE(outside.stat().st_mode)) == ("theirs", 0o644)
    assert not (tmp_path / "planted").exists()
    assert (tmp_path / "target" / "file").read_text() == "content"
    assert os.listdir(tmp_path / "target") == ["file"]


def test_a_pipe_with_a_temporary_name_does_not_hold_it_up(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    os.mkfifo(tmp_path / "target" / TEMPORARY)
    assert run_in_target(tmp_path, "write([b'content'])\n") == "No such device or address\n"
    assert os.listdir(tmp_path / "target") == [TEMPORARY]


def test_what_became_a_link_or_a_pipe_meanwhile_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "outside").write_text("theirs")
    (tmp_path / "target" / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "target" / "pipe")
    said = run_in_target(
        tmp_path,
        """
print(b"".join(target.read("pipe")))
target.make_link("linked", "link")
try:
    print(*target.read("link"))
except RefusedError as error:
    print(error)
""",
    )
    assert said == "b''\nToo many levels of symbolic links\n"
    assert (tmp_path / "target" / "linked").is_symlink()
    assert (tmp_path / "outside").stat().st_nlink == 1


@pytest.mark.parametrize(
    "error", ["EDQUOT", "EIO", "ENOSPC", "EROFS", "EMFILE", "ENFILE", "ENOMEM"]
)
@pytest.mark.parametrize("size", [8, 1 + (1 << 20)], ids=["small", "large"])
def test_what_concerns_all_files_is_no_files_own_fault(
    tmp_path: Path, error: str, size: int
) -> None:
    (tmp_path / "any.zip").write_bytes(build_zip([RawMember(name=b"any", content=bytes(size))]))
    said = run_in_target(
        tmp_path,
        f"""
refuse(('link', errno.{error}), ('linkat', errno.{error}))
try:
    storelet.open_archive(top / "any.zip").extract(there)
except storelet.RestoreError:
    print("all")
""",
        before=REFUSING,
    )
    assert said == "all\n"
    assert os.listdir(tmp_path / "target") == []


def test_a_hard_link_that_is_there_already_leaves_nothing_beside_it(tmp_path: Path) -> None:
    said = run_in_target(
        tmp_path,
        """
write([b"content"])
for _ in range(2):
    target.make_link("linked", "file")
""",
        replace=True,
    )
    assert said == ""
    assert sorted(os.listdir(tmp_path / "target")) == ["file", "linked"]


def test_directories_are_their_owners_alone_until_all_is_in_them(tmp_path: Path) -> None:
    members = [
        RawMember(name=b"d/", content=b"", mode=stat.S_IFDIR | 0o777),
        RawMember(name=b"d/f"),
    ]
    (tmp_path / "two.zip").write_bytes(build_zip(members))
    modes = []

    def look(event: storelet.Event) -> None:
        if isinstance(event, storelet.Restored):
            modes.append(stat.filemode((tmp_path / "target" / "d").stat().st_mode))

    with storelet.observe(look):
        storelet.open_archive(tmp_path / "two.zip").extract(tmp_path / "target")
    modes.append(stat.filemode((tmp_path / "target" / "d").stat().st_mode))
    assert modes == ["drwx------", "drwxrwxrwx"]
