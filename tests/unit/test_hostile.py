"""Archives that mean ill: nothing outside the target is touched, and the rest is restored.

Each case is one zip with something bad in it between two good members.
"""

from __future__ import annotations

import bz2
import os
import stat
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import storelet
from tests.rawzip import (
    UNIX,
    WINDOWS,
    RawMember,
    build_zip,
    extra_field,
    owner_field,
    private_field,
)
from tests.scripts import AS_PLAIN_USER, run_script
from tests.trees import describe_tree

FIRST = RawMember(name=b"good/first", content=b"the first\n" * 30, method=8)
LAST = RawMember(name=b"good/last", content=b"the last\n" * 30)
VAST_LINK = "it is a symbolic link to nothing, or to more than a path can be"
LINK = stat.S_IFLNK | 0o777
DIRECTORY = stat.S_IFDIR | 0o755
MUST_BE_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@dataclass(frozen=True, slots=True)
class Scene:
    """A target, what is around it, and archives to be restored into it."""

    top: Path
    errors: pytest.CaptureFixture[str]

    @property
    def target(self) -> Path:
        return self.top / "target"

    @property
    def outside(self) -> Path:
        return self.top / "outside"

    def open(self, data: bytes, password: str | None = None) -> storelet.OpenedArchive:
        path = self.top / "archives" / "hostile.zip"
        path.write_bytes(data)
        return storelet.open_archive(path, password=password)

    def restore(self, data: bytes, **options: Any) -> dict[str, str]:
        """Restore an archive; return why members were refused."""
        with self.unharmed():
            result = self.open(data).extract(self.target, **options)
        refused = dict(result.refused)
        assert all(result.refused), "each has a name and a reason"
        return refused

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """See that nothing around the target changes, and no process ends in a traceback."""
        before = self._look()
        try:
            yield
        finally:
            assert self._look() == before
            assert "Traceback" not in self.errors.readouterr().err
            assert not [path for path in self.target.rglob("*") if path.name.endswith(".part")]

    def assert_good(self) -> None:
        """See that the good members are restored."""
        for member in (FIRST, LAST):
            assert (self.target / os.fsdecode(member.name)).read_bytes() == member.content

    def _look(self) -> dict[str, Any]:
        found = self.outside.lstat()
        names = sorted(path.name for path in self.top.iterdir() if path != self.target)
        inodes = {str(each): each.lstat()[1:7] for each in self.outside.rglob("*")}
        return {"names": names, "itself": found[:7], "in it": describe_tree(self.outside), **inodes}


@pytest.fixture
def scene(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Scene:
    made = Scene(tmp_path, capfd)
    (tmp_path / "archives").mkdir()
    made.outside.mkdir()
    (made.outside / "file").write_text("theirs")
    (made.outside / "directory").mkdir()
    return made


def link(name: bytes, to: bytes) -> RawMember:
    return RawMember(name=name, content=to, mode=LINK)


def restore_beside_good(scene: Scene, *bad: RawMember, **options: Any) -> dict[str, str]:
    """Restore what is bad beside the good; return why it was refused."""
    refused = scene.restore(build_zip([FIRST, *bad, LAST]), **options)
    scene.assert_good()
    return refused


def paths_in(target: Path) -> set[str]:
    """Name all that is in a target but the good."""
    found = {str(path.relative_to(target)) for path in target.rglob("*")}
    return found - {"good", "good/first", "good/last"}


# Names.


def test_bad_names_are_refused(scene: Scene) -> None:
    out, absolute = "its name leads out of the target", "its name is absolute"
    too_long = "its name is longer than a path can be"
    own = "its name is one of Storelet's own, for files that are not whole"
    expected = {
        f"{scene.outside}/planted": absolute,
        f"/{scene.outside}/planted": absolute,
        "../outside/planted": out,
        "good/../../outside/planted": out,
        "./../outside/planted": out,
        ".//..//outside/planted": out,
        "good/..": out,
        "..": out,
        "good/../good/first": out,
        "../": out,
        "./../": out,
        "good/../../outside/planted/": out,
        "zero\0byte": "its name holds a zero byte",
        "": "it has no name",
        ".": "it has no name",
        "n" * 300: "File name too long",
        "long/" * 1000 + "x": too_long,
        "d/" * 5000 + "deep": too_long,
        "d/" * 32_000 + "deep": too_long,
        "x" * 65_535: too_long,
        "good/.storelet-0123456789abcdef.part": own,
    }
    bad = [RawMember(name=name.encode()) for name in expected]
    assert restore_beside_good(scene, *bad) == expected
    assert not paths_in(scene.target)


@pytest.mark.parametrize("name", [b"./", b"././/"])
def test_the_target_itself_stays_as_it_is(scene: Scene, name: bytes) -> None:
    scene.target.mkdir(mode=0o750)
    bad = RawMember(name=name, content=b"", mode=stat.S_IFDIR | 0o1777)
    assert restore_beside_good(scene, bad) == {}
    assert stat.S_IMODE(scene.target.stat().st_mode) == 0o750


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (rb"..\outside\planted", "its name leads out of the target"),
        (rb"good\..\..\outside\planted", "its name leads out of the target"),
        (rb"\outside\planted", "its name is absolute"),
        (rb"\\server\share\planted", "its name is absolute"),
    ],
)
def test_backslashes_are_slashes_where_windows_made_them(
    scene: Scene, name: bytes, reason: str
) -> None:
    bad = RawMember(name=name, host=WINDOWS, mode=0)
    assert list(restore_beside_good(scene, bad).values()) == [reason]
    assert not paths_in(scene.target)


def test_backslashes_are_no_slashes_where_unix_made_them(scene: Scene) -> None:
    bad = RawMember(name=rb"..\outside\planted", host=UNIX)
    assert restore_beside_good(scene, bad) == {}
    assert paths_in(scene.target) == {r"..\outside\planted"}


@pytest.mark.parametrize(
    "extra",
    [
        extra_field(0x7075, b"\1" + struct.pack("<L", zlib.crc32(b"harmless")) + b"../planted"),
        private_field(raw_name=b"../planted"),
        private_field(raw_name=b"/../planted"),
        private_field(raw_name=b"planted\0"),
    ],
    ids=["unicode path", "raw name", "absolute raw name", "zero byte in raw name"],
)
def test_names_in_extra_fields_are_no_way_out(scene: Scene, extra: bytes) -> None:
    assert len(restore_beside_good(scene, RawMember(name=b"harmless", extra=extra))) == 1
    assert not paths_in(scene.target)


def test_in_place_nothing_leads_out_of_a_source(scene: Scene) -> None:
    scene.target.mkdir()
    texts = b"job", b"host", b"www", os.fsencode(scene.target)
    record = struct.pack("<q", 0) + b"".join(struct.pack("<H", len(x)) + x for x in texts)
    names = b"www/good", b"www/../outside/planted", b"www//../planted", b"www/d/../../planted"
    own = private_field(record=record), *[b""] * 3
    members = [RawMember(name=name, extra=extra) for name, extra in zip(names, own, strict=True)]
    with scene.unharmed():
        refused = scene.open(build_zip(members)).extract_in_place().refused
    assert dict(refused) == dict.fromkeys(
        map(os.fsdecode, names[1:]), "its name leads out of the target"
    )
    assert paths_in(scene.target) == set()
    assert (scene.target / "good").read_bytes() == b"content\n"


def test_overlong_utf_8_is_no_dot(scene: Scene) -> None:
    assert restore_beside_good(scene, RawMember(name=b"\xc0\xae\xc0\xae/planted")) == {}
    assert os.listdir(os.fsencode(scene.target / os.fsdecode(b"\xc0\xae\xc0\xae"))) == [b"planted"]


def test_a_path_of_2_000_levels_is_made(scene: Scene) -> None:
    deep, beside = (RawMember(name=b"d/" * 2000 + name) for name in (b"deep", b"beside"))
    result = scene.open(build_zip([FIRST, deep, beside, LAST])).extract(scene.target)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["rm", "-rf", scene.target], check=True)
        directory = os.open(scene.target, os.O_RDONLY)
        for _ in range(2000):
            directory, above = os.open("d", os.O_RDONLY, dir_fd=directory), directory
            os.close(above)
        stack.callback(os.close, directory)
        assert sorted(os.listdir(directory)) == ["beside", "deep"]
        assert result.refused == []
        scene.assert_good()


# Links.


@pytest.mark.parametrize("through", [b"a/planted", b"a/directory/planted", b"a/file"])
@pytest.mark.parametrize("is_link_first", [True, False])
def test_nothing_is_written_through_a_link_of_the_archive(
    scene: Scene, through: bytes, is_link_first: bool
) -> None:
    members = [link(b"a", os.fsencode(scene.outside)), RawMember(name=through)]
    refused = restore_beside_good(scene, *members[:: 1 if is_link_first else -1])
    assert refused == {"a": "something is there already"}
    assert (scene.target / os.fsdecode(through)).read_bytes() == b"content\n"


@pytest.mark.parametrize("overwrite", ["never", "always", "if-newer"])
def test_nothing_is_written_through_a_chain_of_links(scene: Scene, overwrite: str) -> None:
    chain = [
        link(b"a", b"b"),
        link(b"b", b"../outside"),
        link(b"c/up", b"../.."),
        link(b"loop", b"loop"),
    ]
    through = [
        RawMember(name=b"a/planted"),
        RawMember(name=b"b/file"),
        RawMember(name=b"c/up/outside/file"),
        RawMember(name=b"loop/x"),
        RawMember(name=b"a/new/", content=b"", mode=DIRECTORY),
    ]
    for _ in range(2):
        restore_beside_good(scene, *chain, *through, overwrite=overwrite)
    assert not [path for path in scene.target.rglob("*") if path.is_symlink()]
    for each in chain:
        restore_beside_good(scene, each, overwrite=overwrite)
    assert scene.target.joinpath("a").is_dir()


@pytest.mark.parametrize("overwrite", ["never", "always", "if-newer"])
def test_links_that_the_first_restore_made_are_no_way_for_the_second(
    scene: Scene, overwrite: str
) -> None:
    restore_beside_good(scene, link(b"a", os.fsencode(scene.outside)), link(b"f", b"a/file"))
    assert (scene.target / "a").is_symlink()
    members = [
        RawMember(name=b"a/planted"),
        RawMember(name=b"a/file"),
        RawMember(name=b"a/directory/", content=b"", mode=stat.S_IFDIR | 0o700),
        RawMember(name=b"a/link", content=b"x", mode=LINK),
    ]
    refused = restore_beside_good(scene, *members, overwrite=overwrite)
    reason = "on its way is something that is no directory, or a symbolic link to one"
    assert refused == {each.name.decode(): reason for each in members}


def test_a_link_that_is_there_is_replaced_and_not_followed(scene: Scene) -> None:
    scene.target.mkdir()
    there = scene.target / "f"
    there.symlink_to(scene.outside / "file")
    members = [RawMember(name=b"f")]
    assert restore_beside_good(scene, *members) == {"f": "something else is there already"}
    assert there.is_symlink()
    assert restore_beside_good(scene, *members, overwrite="always") == {}
    assert not there.is_symlink()
    assert there.read_bytes() == b"content\n"


def test_a_link_that_is_there_is_not_taken_for_a_file(scene: Scene) -> None:
    scene.target.mkdir()
    (scene.target / "f").symlink_to("8 bytes!")
    data = build_zip([FIRST, RawMember(name=b"f", content=b"content!"), LAST])
    time_ns = scene.open(data).find("f").mtime_ns
    os.utime(scene.target / "f", ns=(time_ns, time_ns), follow_symlinks=False)
    assert scene.restore(data) == {"f": "something else is there already"}
    scene.assert_good()


def test_a_link_to_a_directory_is_not_taken_for_one(scene: Scene) -> None:
    scene.target.mkdir()
    (scene.target / "d").symlink_to(scene.outside)
    bad = RawMember(name=b"d/", content=b"", mode=stat.S_IFDIR | 0o777)
    for overwrite in ("never", "always"):
        refused = restore_beside_good(scene, bad, overwrite=overwrite)
        assert refused == {"d/": "what is there is no directory"}


def test_a_hard_link_that_is_there_is_replaced_and_not_written_through(scene: Scene) -> None:
    scene.target.mkdir()
    os.link(scene.outside / "file", scene.target / "f")
    before = (scene.outside / "file").read_bytes(), (scene.outside / "file").stat().st_mode
    scene.open(build_zip([RawMember(name=b"f", mode=stat.S_IFREG | 0o666)])).extract(
        scene.target, overwrite="always"
    )
    assert (
        (scene.outside / "file").read_bytes(),
        (scene.outside / "file").stat().st_mode,
    ) == before
    assert (scene.target / "f").read_bytes() == b"content\n"


@pytest.mark.parametrize("overwrite", ["never", "always"])
def test_no_hard_link_is_made_to_what_lies_behind_a_link(scene: Scene, overwrite: str) -> None:
    scene.target.mkdir()
    (scene.target / "s").symlink_to(scene.outside)
    (scene.outside / "file").write_bytes(b"content\n")
    (scene.outside / "file").chmod(0o644)
    os.utime(scene.outside / "file", ns=(0, 0))
    group = private_field(group=1)
    members = [RawMember(name=name, extra=group) for name in (b"s/file", b"one", b"two")]
    assert set(restore_beside_good(scene, *members, overwrite=overwrite)) == {"s/file"}
    assert (scene.target / "one").stat().st_nlink == 2
    assert (scene.target / "one").samefile(scene.target / "two")
    assert not (scene.target / "one").samefile(scene.outside / "file")


def test_hard_links_are_made_to_files_only(scene: Scene) -> None:
    group = private_field(group=1)
    members = [
        RawMember(name=b"a", content=os.fsencode(scene.outside / "file"), mode=LINK, extra=group),
        RawMember(name=b"b/", content=b"", mode=DIRECTORY, extra=group),
        RawMember(name=b"c", extra=group),
        RawMember(name=b"d", content=b"another one", extra=group),
    ]
    assert restore_beside_good(scene, *members) == {}
    assert (scene.target / "c").read_bytes() == b"content\n"
    assert (scene.target / "d").read_bytes() == b"another one"


@pytest.mark.parametrize(
    ("content", "mode"),
    [(b"CONTENT\n", 0o100644), (b"content\n", 0o100600), (b"longer\xfc\xcaH\x08", 0o100644)],
    ids=["other content", "other mode", "other size and the same CRC"],
)
def test_hard_links_are_made_of_what_is_the_same_only(
    scene: Scene, content: bytes, mode: int
) -> None:
    group = private_field(group=1)
    other = RawMember(name=b"other", content=content, mode=mode, extra=group)
    assert restore_beside_good(scene, RawMember(name=b"one", extra=group), other) == {}
    assert (scene.target / "one").read_bytes() == b"content\n"
    assert (scene.target / "other").read_bytes() == content
    assert (scene.target / "other").stat().st_mode == mode


def test_no_hard_link_is_made_to_what_was_there_before(scene: Scene) -> None:
    group = private_field(group=1)
    scene.target.mkdir()
    (scene.target / "bad").write_text("theirs")
    bad = RawMember(name=b"bad", extra=group, local_name=b"planted")
    refused = restore_beside_good(scene, bad, RawMember(name=b"x", extra=group), overwrite="always")
    assert set(refused) == {"bad"}
    assert (scene.target / "bad").read_text() == "theirs"
    assert (scene.target / "x").read_bytes() == b"content\n"


def test_a_link_that_is_there_is_right_only_where_it_points_there(scene: Scene) -> None:
    scene.target.mkdir()
    for name in ("same", "other"):
        (scene.target / name).symlink_to(name)
    links = [link(b"same", b"same"), link(b"other", b"elsewhere")]
    assert restore_beside_good(scene, *links) == {"other": "something is there already"}
    assert restore_beside_good(scene, *links, overwrite="if-newer") == {}
    assert os.readlink(scene.target / "other") == "other"  # newer than 1980


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        (b"zero\0byte", "it points to a name that holds a zero byte"),
        (b"", VAST_LINK),
        (b"x" * 4096, VAST_LINK),
        (b"x" * 5_000_000, VAST_LINK),
    ],
    ids=["zero byte", "nothing", "long", "very long"],
)
def test_links_that_cannot_be_are_refused(scene: Scene, to: bytes, reason: str) -> None:
    bad = RawMember(name=b"bad", content=to, mode=LINK, method=8)
    assert restore_beside_good(scene, bad) == {"bad": reason}
    assert not paths_in(scene.target)


def test_a_link_whose_data_are_vast_is_not_read(scene: Scene) -> None:
    nothing = b"\0\0\0\xff\xff" * 300_000  # an empty block of deflate, again and again
    stored = nothing + b"\1\4\0\xfb\xffgood"
    bad = RawMember(name=b"bad", content=b"good", stored=stored, mode=LINK, method=8)
    assert restore_beside_good(scene, bad) == {"bad": "it takes more room than a path can"}
    assert not paths_in(scene.target)


# Names that are taken.


@pytest.mark.parametrize(
    "names",
    [
        (b"a", b"a"),
        (b"d/a", b"d//a"),
        (b"d/a", b"d/./a"),
        (b"d/a", b"./d/a"),
        (b"a", b"a", b"a"),
        (b"a", b"a/"),
        (b"a/", b"a"),
    ],
)
def test_members_that_share_a_path_are_refused(scene: Scene, names: tuple[bytes, ...]) -> None:
    bad = [
        RawMember(
            name=name, content=b"%d" % number, mode=DIRECTORY if name[-1:] == b"/" else 0o100644
        )
        for number, name in enumerate(names)
    ]
    refused = restore_beside_good(scene, *bad)
    assert refused == {name.decode(): "another member has the same name" for name in names}
    assert paths_in(scene.target) <= {"d"}


def test_a_directory_may_be_listed_twice(scene: Scene) -> None:
    twice = [RawMember(name=b"d/", content=b"", mode=DIRECTORY)] * 2
    assert restore_beside_good(scene, *twice) == {}


@pytest.mark.parametrize("names", [(b"a", b"a/b"), (b"a/b", b"a")])
@pytest.mark.parametrize("overwrite", ["never", "always"])
def test_a_file_and_a_directory_cannot_share_a_path(
    scene: Scene, names: tuple[bytes, bytes], overwrite: str
) -> None:
    refused = restore_beside_good(
        scene, *(RawMember(name=name) for name in names), overwrite=overwrite
    )
    assert len(refused) == 1
    assert len([path for path in scene.target.rglob("*") if path.is_file()]) == 3


# Members that share their bytes.


def test_members_on_the_same_bytes_are_refused(scene: Scene) -> None:
    """Fifield's bomb in its simplest form: many headers of the catalogue, one member."""
    kernel = RawMember(name=b"kernel", content=bytes(500_000), method=8)
    twins = [
        RawMember(
            name=b"twin%d" % number,
            offset=len(FIRST.local()),
            size=len(kernel.content),
            stored_size=len(kernel.packed),
            crc=zlib.crc32(kernel.content),
            method=8,
            is_there=False,
        )
        for number in range(50)
    ]
    refused = restore_beside_good(scene, kernel, *twins)
    assert set(refused) == {each.name.decode() for each in twins}
    assert paths_in(scene.target) == {"kernel"}


def test_one_members_bytes_are_not_restored_under_two_names(scene: Scene) -> None:
    def named(path: bytes) -> bytes:
        return extra_field(0x7075, struct.pack("<BL", 1, zlib.crc32(b"x")) + path)

    one = RawMember(name=b"x", extra=named(b"a"))
    two = RawMember(name=b"x", extra=named(b"b"), offset=len(FIRST.local()), is_there=False)
    reason = "it shares bytes with another member"
    assert restore_beside_good(scene, one, two) == {"a": reason, "b": reason}


def quoted(number: int, inner: bytes, inner_content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return name, data and content of a member that quotes the next ones and goes on as they do.

    A stored block of deflate (RFC 1951, 3.2.4) holds their local header.
    """
    head = inner[:34]
    block = b"\0" + struct.pack("<HH", len(head), len(head) ^ 0xFFFF) + head
    return b"%04d" % number, block + inner[34:], head + inner_content


def test_members_that_quote_each_other_are_refused(scene: Scene) -> None:
    """Fifield's bomb as it is: each one's data hold the headers of the next and its content."""
    content = bytes(1_000_000)
    kernel = RawMember(name=b"kern", content=content, method=8)
    members, inner = [kernel], kernel.local()
    for number in range(30):
        name, data, content = quoted(number, inner, content)
        members.append(RawMember(name=name, content=content, stored=data, method=8))
        inner = members[-1].local()
    start = len(FIRST.local())
    listed, at = [], start
    for member in reversed(members):
        listed.append(
            RawMember(
                name=member.name,
                method=8,
                offset=at,
                size=len(member.content),
                stored_size=len(member.packed),
                crc=zlib.crc32(member.content),
                is_there=False,
            )
        )
        at += 30 + 4 + 5
    outermost = RawMember(
        name=members[-1].name,
        content=members[-1].content,
        stored=members[-1].packed,
        method=8,
        is_listed=False,
    )
    refused = restore_beside_good(scene, outermost, *listed)
    assert set(refused) >= {each.name.decode() for each in members[1:]}
    assert set(refused.values()) == {"it shares bytes with another member"}
    assert paths_in(scene.target) <= {"kern"}


def test_a_member_inside_of_another_is_restored_once(scene: Scene) -> None:
    inner = RawMember(name=b"inner", content=b"inner content")
    outer = RawMember(name=b"outer", content=b"in front" + inner.local() + b"behind")
    at = len(FIRST.local()) + 30 + len(outer.name) + len(b"in front")
    listed = RawMember(name=b"inner", content=inner.content, offset=at, is_there=False)
    refused = restore_beside_good(scene, outer, listed)
    assert refused == {"outer": "it shares bytes with another member"}
    assert (scene.target / "inner").read_bytes() == b"inner content"


@pytest.mark.parametrize("more", [64, 65, 5000, 65_000])
def test_a_local_header_may_be_longer_than_the_catalogue_says(scene: Scene, more: int) -> None:
    odd = RawMember(name=b"odd", local_extra=extra_field(9, bytes(more - 4)))
    assert scene.restore(build_zip([FIRST, LAST, odd], listed=[2, 0, 1])) == {}
    scene.assert_good()
    assert (scene.target / "odd").read_bytes() == odd.content


def test_a_member_around_a_lie_and_another_member_is_refused(scene: Scene) -> None:
    inner = RawMember(name=b"inner", content=b"inner content")
    outer = RawMember(name=b"outer", content=bytes(100) + inner.local() + bytes(100))
    at = len(FIRST.local()) + 30 + len(outer.name)
    liar = RawMember(name=b"liar", offset=at + 10, is_there=False)
    listed = RawMember(name=b"inner", content=inner.content, offset=at + 100, is_there=False)
    assert restore_beside_good(scene, outer, liar, listed) == {
        "outer": "it shares bytes with another member",
        "liar": "it is not where its catalogue says",
    }
    assert (scene.target / "inner").read_bytes() == b"inner content"


def test_what_has_lost_its_beginning_is_not_read_before_that(scene: Scene) -> None:
    data = build_zip([FIRST, RawMember(name=b"second"), LAST], listed=[1, 0, 2])
    reason = "its catalogue says it is where the archive has no members"
    assert scene.restore(data[10:]) == {"good/first": reason}
    assert (scene.target / "second").read_bytes() == b"content\n"
    assert (scene.target / "good" / "last").read_bytes() == LAST.content


def test_one_that_says_it_is_larger_costs_the_others_nothing(scene: Scene) -> None:
    liar = RawMember(name=b"liar", stored_size=8 + 200, size=208)
    beside = [RawMember(name=b"beside%d" % number, content=bytes(50)) for number in range(9)]
    assert set(restore_beside_good(scene, liar, *beside)) == {"liar"}
    assert len(paths_in(scene.target)) == 9


@pytest.mark.parametrize("size", [1 << 20, (1 << 31) + 8, 1 << 40, (1 << 64) - 1])
def test_one_that_says_it_is_much_larger_costs_the_others_nothing(scene: Scene, size: int) -> None:
    liar = RawMember(name=b"liar", stored_size=size, size=size)
    assert restore_beside_good(scene, liar) == {"liar": "the archive ends before it does"}


def test_one_that_says_it_is_in_another_costs_that_nothing(scene: Scene) -> None:
    large = RawMember(name=b"large", content=os.urandom(100_000))
    liar = RawMember(name=b"liar", offset=len(FIRST.local()) + 5000)
    refused = restore_beside_good(scene, large, liar)
    assert refused == {"liar": "it is not where its catalogue says"}
    assert (scene.target / "large").read_bytes() == large.content


# Bombs.


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (
            RawMember(name=b"bad", method=8, content=b"x", size=1 << 40),
            "its catalogue says it is larger than can be packed into its bytes",
        ),
        (
            RawMember(name=b"bad", method=8, content=bytes(1 << 24), size=1 << 20),
            "it is larger than its catalogue says",
        ),
        (
            RawMember(name=b"bad", method=8, content=bytes(1 << 10), size=1 << 11),
            "it is smaller than its catalogue says",
        ),
        (RawMember(name=b"bad", size=1 << 40), "its catalogue has two sizes for it"),
        (RawMember(name=b"bad", size=7, stored_size=8), "its catalogue has two sizes for it"),
    ],
)
def test_bombs_are_refused(scene: Scene, member: RawMember, reason: str) -> None:
    assert restore_beside_good(scene, member) == {"bad": reason}
    assert not paths_in(scene.target)


@pytest.mark.parametrize("method", [8, 12])
def test_what_a_bomb_packs_is_never_in_memory_together(scene: Scene, method: int) -> None:
    packer: Any = zlib.compressobj(9, wbits=-15) if method == 8 else bz2.BZ2Compressor()
    packed = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(300)), packer.flush()])
    bad = RawMember(name=b"bad", stored=packed, size=1 << 22, method=method)
    scene.open(build_zip([FIRST, bad, LAST]))
    done = run_script(
        """
import resource, storelet, sys
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(storelet.open_archive(sys.argv[1]).extract(sys.argv[2]).refused)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
""",
        scene.top / "archives" / "hostile.zip",
        scene.target,
    )
    refused, kibibytes = done.stdout.splitlines()
    assert "larger than its catalogue says" in refused
    assert int(kibibytes) < 100 << 10
    scene.assert_good()


def test_nothing_is_begun_where_there_is_no_room_for_it(scene: Scene) -> None:
    vast = RawMember(name=b"vast", method=12, size=1 << 50)
    archive = scene.open(build_zip([FIRST, vast, LAST]))
    with scene.unharmed(), pytest.raises(storelet.RestoreError, match="there is no room"):
        archive.extract(scene.target)
    assert not list(scene.target.iterdir())
    with scene.unharmed():
        archive.extract(scene.target, ["good/"])
    scene.assert_good()


# What is no file.


def test_what_is_no_file_is_refused(scene: Scene) -> None:
    kinds = {
        stat.S_IFIFO: "it is a FIFO",
        stat.S_IFSOCK: "it is a socket",
        stat.S_IFCHR: "it is a character device",
        stat.S_IFBLK: "it is a block device",
        0o030000: "it is of no known type",
        0o170000: "it is of no known type",
    }
    bad = [RawMember(name=b"%o" % kind, content=b"", mode=kind | 0o666) for kind in kinds]
    assert restore_beside_good(scene, *bad) == {f"{kind:o}": kinds[kind] for kind in kinds}
    assert not paths_in(scene.target)


@MUST_BE_ROOT
def test_set_id_bits_come_with_their_owner_only(scene: Scene) -> None:
    members = [
        RawMember(name=b"theirs", mode=0o106755, extra=owner_field(12345, 23456)),
        RawMember(name=b"nobody's", mode=0o106755),
    ]
    assert restore_beside_good(scene, *members) == {}
    found = (scene.target / "theirs").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o6755)
    assert stat.S_IMODE((scene.target / "nobody's").stat().st_mode) == 0o755


def test_set_id_bits_of_others_are_not_given_to_a_user(scene: Scene) -> None:
    members = [
        RawMember(name=b"theirs", mode=0o106755, extra=owner_field(12345, 12345)),
        RawMember(name=b"d/", content=b"", mode=0o042777, extra=owner_field(12345, 12345)),
        RawMember(name=b"mine", mode=0o104755, extra=owner_field(65534, 65534)),
    ]
    done = run_script(
        AS_PLAIN_USER
        + f"""
data = bytes.fromhex({build_zip(members).hex()!r})
with tempfile.TemporaryDirectory() as top:
    with open(top + "/hostile.zip", "wb") as file:
        file.write(data)
    result = storelet.open_archive(top + "/hostile.zip").extract(top + "/target")
    assert result.refused == [], result
    for name in ("theirs", "d", "mine"):
        print(name, oct(os.stat(f"{{top}}/target/{{name}}").st_mode & 0o7777))
"""
    )
    theirs, directory, mine = done.stdout.splitlines()
    assert (theirs, directory) == ("theirs 0o755", "d 0o777")
    assert mine == ("mine 0o4755" if os.geteuid() == 0 else "mine 0o755")


# Catalogues that lie.


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (RawMember(name=b"bad", crc=1), "its CRC is not that of its catalogue"),
        (
            RawMember(name=b"bad", local_name=b"other"),
            "it has another name where it is than in its catalogue",
        ),
        (
            RawMember(name=b"bad", local_name=b""),
            "it has another name where it is than in its catalogue",
        ),
        (RawMember(name=b"bad", offset=0), "it has another name where it is than in its catalogue"),
        (RawMember(name=b"bad", offset=3), "it is not where its catalogue says"),
        (
            RawMember(name=b"bad", local_signature=b"PK\x01\x02"),
            "it is not where its catalogue says",
        ),
        (
            RawMember(name=b"bad", stored=b"no deflate stream", method=8),
            "it cannot be inflated",
        ),
        (RawMember(name=b"bad", stored=b"", method=8, content=b""), "it breaks off"),
        (
            RawMember(name=b"bad", stored=b"\3\0rest", method=8, content=b""),
            "there is something behind its content",
        ),
        (RawMember(name=b"bad", stored=b"no bzip2", method=12), "it cannot be inflated"),
        *(
            (
                RawMember(name=b"bad", offset=offset),
                "its catalogue says it is where the archive has no members",
            )
            for offset in (100_000, (1 << 32) - 2, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1)
        ),
        (
            RawMember(name=b"bad", offset=(1 << 62) - 1, stored_size=(1 << 64) - 1, method=12),
            "its catalogue says it is where the archive has no members",
        ),
    ],
)
def test_lies_about_a_member_are_refused(scene: Scene, member: RawMember, reason: str) -> None:
    data = build_zip([FIRST, member, LAST])
    assert scene.restore(data) == {"bad": reason}
    scene.assert_good()
    assert not paths_in(scene.target)
    with pytest.raises(storelet.DamagedArchiveError, match=r"^bad in hostile\.zip: "):
        scene.open(data).read("bad")


ODD_FIELDS = [
    owner_field(1 << 31, 5, 8),
    owner_field((1 << 32) - 1, (1 << 32) - 1),
    owner_field((1 << 64) - 1, (1 << 64) - 1, 8),
    owner_field((1 << 1000) - 1, 5, 200),
    extra_field(0x7875, b"\1\0\0"),
    extra_field(0x7875, b"\1\xff\0"),
    extra_field(0x5455, b"\1"),
    extra_field(0x000A, bytes(4) + b"\1\0\x18\0" + b"\xff" * 24),
    extra_field(0x000A, bytes(4) + b"\1\0\x18\0" + bytes(24)),
    extra_field(0x0001, b""),
    extra_field(0x7075, b"\1"),
    extra_field(0x6C53, b"\1" * 20),
    extra_field(0x6C53, b"\1\xff" + b"\xff" * 44),
    private_field(mtime_ns=-(1 << 63)),
    private_field(mtime_ns=(1 << 63) - 1),
    private_field(record=struct.pack("<q", 0)),
    private_field(record=struct.pack("<qHH", 0, 0, 0)),
    private_field(record=struct.pack("<qHHHH2s", 0, 0, 0, 0, 2, b"/\0")),
    b"\x75\x78\x0b\0\1\4",
    b"\x53\x6c\xff\xff\1",
    b"\xff",
]


def test_odd_extra_fields_hurt_nobody(scene: Scene) -> None:
    members = []
    for number, extra in enumerate(ODD_FIELDS):
        members += [
            RawMember(name=b"file%d" % number, extra=extra),
            RawMember(name=b"link%d" % number, content=b"to", mode=LINK, extra=extra),
            RawMember(name=b"d%d/" % number, content=b"", mode=DIRECTORY, extra=extra),
        ]
    assert restore_beside_good(scene, *members) == {}
    assert len(paths_in(scene.target)) == len(members)


@pytest.mark.parametrize("extra", ODD_FIELDS)
def test_odd_extra_fields_of_a_lone_member_hurt_nobody(scene: Scene, extra: bytes) -> None:
    archive = scene.open(build_zip([RawMember(name=b"odd", extra=extra)]))
    assert archive.read("odd") == b"content\n"
    with scene.unharmed(), suppress(storelet.RestoreError):  # it does not say where it was
        refused = archive.extract_in_place(dry_run=True).refused
        assert [name for name, _ in refused] == ["odd"]


def test_fields_that_are_anothers_are_passed_over(scene: Scene) -> None:
    """A name that was of the member before it was renamed, and a field that we do not know yet."""
    renamed = extra_field(0x7075, struct.pack("<BL", 1, zlib.crc32(b"before")) + b"other")
    newer = private_field(raw_name=b"other", mtime_ns=10**18)
    newer = newer[:4] + b"\2" + newer[5:]
    for extra in (renamed, newer):
        (member,) = scene.open(build_zip([RawMember(name=b"x", extra=extra)])).members()
        assert (member.name, member.mtime_ns < 10**18) == ("x", True)


@pytest.mark.parametrize("count", [0, 1, 3, 65_534])
def test_a_catalogue_that_lacks_members_is_a_problem(scene: Scene, count: int) -> None:
    archive = scene.open(build_zip([FIRST, LAST], count=count))
    assert archive.problems == [f"its catalogue should have {count:,} members, not 2"]
    assert archive.extract(scene.target).refused == []
    scene.assert_good()


def test_what_is_encrypted_is_refused(scene: Scene) -> None:
    ways = [
        (1, 0, b""),
        (1 | 1 << 3, 8, b""),
        (1 | 1 << 6, 8, b""),
        (1, 99, b""),
        (1, 99, extra_field(0x9901, b"\2\0AE\7\0\0")),
        (1, 8, extra_field(0x0017, b"\2\0")),
    ]
    bad = [
        RawMember(name=b"%d" % number, general=general, method=method, extra=extra)
        for number, (general, method, extra) in enumerate(ways)
    ]
    refused = restore_beside_good(scene, *bad)
    assert len(refused) == len(ways)
    assert all("encrypted" in reason for reason in refused.values())
    assert not paths_in(scene.target)


def test_what_only_says_that_it_is_encrypted_needs_a_password(scene: Scene) -> None:
    extra = extra_field(0x9901, b"\2\0AE\3\x08\0")
    liar = RawMember(name=b"liar", general=1, method=99, extra=extra)
    data = build_zip([FIRST, liar, LAST])
    for password in (None, "any"):
        with pytest.raises(storelet.CredentialsError):
            scene.open(data, password=password).extract(scene.target)
        assert not paths_in(scene.target)
    refused = scene.open(data).extract(scene.target, ["*", "!liar"]).refused
    assert refused == []
    scene.assert_good()


def test_what_is_packed_by_other_methods_is_refused(scene: Scene) -> None:
    methods = (1, 6, 9, 14, 93, 95, 98, 99, 65535)
    bad = [RawMember(name=b"%d" % method, method=method) for method in methods]
    refused = restore_beside_good(scene, *bad)
    assert refused.keys() == {str(method) for method in methods}
    assert all(f"method {name}, " in reason for name, reason in refused.items())
    assert not paths_in(scene.target)


def test_helpers_are_as_wary(scene: Scene) -> None:
    """What is large is given to other processes, which see the same members."""
    harmless = [
        RawMember(name=b"harmless/%d" % number, content=bytes(1 << 20), method=8)
        for number in range(17)
    ]
    bad = {
        "crc": RawMember(name=b"crc", crc=1),
        "name": RawMember(name=b"name", local_name=b"../planted"),
        "bomb": RawMember(name=b"bomb", content=bytes(1 << 20), size=1 << 15, method=8),
        "n" * 300: RawMember(name=b"n" * 300),
        "through/link": RawMember(name=b"through/link"),
        "stream": RawMember(name=b"stream", stored=b"none", method=8),
        "bzip2": RawMember(name=b"bzip2", stored=b"none", method=12),
    }
    scene.target.mkdir()
    (scene.target / "through").symlink_to(scene.outside)
    odd = [
        RawMember(name=b"odd%d" % number, extra=extra, mode=0o107777)
        for number, extra in enumerate(ODD_FIELDS)
    ]
    refused = restore_beside_good(scene, *harmless, *odd, *bad.values())
    assert refused.keys() == bad.keys()
    assert len(list(scene.target.glob("harmless/*"))) == len(harmless)
    assert len(list(scene.target.glob("odd*"))) == len(odd)


def test_any_order_will_do(scene: Scene) -> None:
    members = [FIRST, *(RawMember(name=b"%d" % number) for number in range(40)), LAST]
    listed = [number * 5 % len(members) for number in range(len(members))]
    assert len(set(listed)) == len(members)
    assert scene.restore(build_zip(members, listed=listed, between=b"PK\x03\x04garbage")) == {}
    scene.assert_good()
    assert len(paths_in(scene.target)) == 40


def locator(offset: int) -> bytes:
    return struct.pack("<4sLQL", b"PK\x06\x07", 0, offset, 1)


def end64(count: int, size: int, offset: int) -> bytes:
    return struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)


NONSENSE: dict[str, dict[str, Any]] = {
    "more": {"count": 50},
    "fewer": {"count": 1},
    "none": {"count": 0},
    "most": {"count": 0xFFFF},
    "larger": {"catalogue_size": 100_000},
    "largest": {"catalogue_size": 0xFFFFFFFE},
    "smaller": {"catalogue_size": 60},
    "nothing": {"catalogue_size": 0},
    "elsewhere": {"catalogue_offset": 5},
    "beyond": {"catalogue_offset": 0xFFFFFFFE},
    "zip64, none": {"catalogue_offset": 0xFFFFFFFF, "count": 0xFFFF},
    "zip64, nowhere": {"catalogue_offset": 0xFFFFFFFF, "zip64": locator((1 << 64) - 1)},
    "zip64, at 0": {"catalogue_offset": 0xFFFFFFFF, "zip64": locator(0)},
    "zip64, too large": {
        "catalogue_offset": 0xFFFFFFFF,
        "zip64": end64((1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1) + locator(9),
    },
    "zip64, empty": {"catalogue_offset": 0xFFFFFFFF, "zip64": end64(0, 0, 0) + locator(9)},
    "ends": {"after": b"PK\5\6" * 1000},
    "empty ends": {"after": (b"PK\5\6" + bytes(18)) * 100},
    "empty end in the comment": {"comment": b"PK\5\6" + bytes(18) + b"!"},
}


@pytest.mark.parametrize("lie", NONSENSE)
def test_lies_about_the_catalogue_hurt_nobody(scene: Scene, lie: str) -> None:
    archive = scene.open(build_zip([FIRST, LAST], **NONSENSE[lie]))
    with scene.unharmed():
        result = archive.extract(scene.target)
    assert result.refused == []
    scene.assert_good()


@pytest.mark.parametrize("field", ["name_length", "extra_length"])
@pytest.mark.parametrize("value", [0, 1, 40, 65_535])
def test_lengths_that_lie_hurt_nobody(scene: Scene, field: str, value: int) -> None:
    bad = RawMember(name=b"bad", **{field: value})
    archive = scene.open(build_zip([FIRST, bad, LAST]))
    with scene.unharmed():
        archive.extract(scene.target)
    assert (scene.target / "good/first").read_bytes() == FIRST.content


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P",
        b"PK\5\6",
        b"PK\5\6" + bytes(18),
        b"PK\5\6" + b"\xff" * 18,
        bytes(100_000),
        b"PK\5\6" * 60_000,
        b"PK\1\2" * 60_000,
        b"PK\3\4" * 60_000,
        b"PK\6\6" * 60_000,
        (b"PK\1\2" + bytes(42)) * 100 + b"PK\5\6" + struct.pack("<8xLLH", 4600, 0, 0),
    ],
    ids=range(11),
)
def test_what_is_no_zip_hurts_nobody(scene: Scene, data: bytes) -> None:
    archive = scene.open(data)
    with scene.unharmed():
        archive.extract(scene.target)
    assert not paths_in(scene.target)
    assert (
        archive.problems or data == b"PK\5\6" + bytes(18) or data.startswith(b"PK\1\2" + bytes(9))
    )
