"""Any tree that is backed up and restored is the same tree, with all metadata."""

from __future__ import annotations

import os
import random
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import storelet
from storelet.zipformat import portable_name
from tests.trees import describe_tree

IS_ROOT = os.geteuid() == 0
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A file, link or directory of a tree."""

    path: bytes
    kind: str
    seed: int  # of what is in a file
    size: int
    points_to: bytes
    mode: int
    mtime_ns: int
    owner: tuple[int, int]

    @property
    def content(self) -> bytes:
        dice = random.Random(self.seed)  # noqa: S311 - no secret
        if self.seed % 3 == 0:
            return dice.randbytes(self.size)
        return (dice.randbytes(1 + self.seed % 500) * (self.size + 1))[: self.size]


NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c"]),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1)
    .map(str.encode)
    .filter(lambda name: len(name) <= 255),
    st.binary(min_size=1, max_size=255).map(lambda name: name.translate(None, b"/\0") or b"x"),
).filter(lambda name: name not in (b".", b".."))
THINGS = st.builds(
    Thing,
    path=st.lists(NAMES, min_size=1, max_size=5).map(b"/".join),
    kind=st.sampled_from(["file", "file", "file", "symlink", "link", "directory"]),
    seed=st.integers(0, 1 << 30),
    size=st.one_of(
        st.integers(0, 5000),
        st.sampled_from([0, MIB - 1, MIB, MIB + 1]),
        st.integers(MIB - 70_000, MIB + 70_000),
    ),
    points_to=st.binary(min_size=1, max_size=4095).map(lambda to: to.replace(b"\0", b"/")),
    mode=st.integers(0, 0o7777),
    # From 1901, for ext4 has none before, to 2262, for archives have none behind.
    mtime_ns=st.integers(-(1 << 31) * 10**9, (1 << 63) - 1),
    owner=st.sampled_from([(0, 0), (65534, 65534), (1, 4_294_967_294)]),
)


def make_tree(top: Path, things: list[Thing]) -> None:
    """Make what can be made of the things; two may want one name, or one lie behind a link."""
    made: list[tuple[bytes, Thing]] = []
    files: list[bytes] = []
    for thing in things:
        path = os.path.join(os.fsencode(top), thing.path)
        try:
            os.makedirs(path if thing.kind == "directory" else os.path.dirname(path), exist_ok=True)
            if thing.kind == "symlink":
                os.symlink(thing.points_to, path)
            elif thing.kind == "link" and files:
                os.link(files[thing.seed % len(files)], path)
                continue
            elif thing.kind != "directory":
                with open(path, "xb") as file:
                    file.write(thing.content)
                files.append(path)
            made.append((path, thing))
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            continue
    for path, thing in reversed(made):
        set_metadata(path, thing)


def set_metadata(path: bytes, thing: Thing) -> None:
    if IS_ROOT:
        os.chown(path, *thing.owner, follow_symlinks=False)
    if thing.kind != "symlink":
        os.chmod(path, thing.mode if IS_ROOT else thing.mode & 0o1777 | 0o700)
    os.utime(path, ns=(0, thing.mtime_ns), follow_symlinks=False)


@pytest.mark.parametrize("way", ["streamed", "spooled"])
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(things=st.lists(THINGS, max_size=10))
def test_any_tree_is_restored_as_it_was(way: str, things: list[Thing]) -> None:
    with tempfile.TemporaryDirectory() as top:
        source, kept, target = (Path(top, name) for name in ("source", "kept", "target"))
        source.mkdir()
        kept.mkdir()
        make_tree(source, things)
        expected = describe_tree(source)
        assume(len({portable_name(name) for name in expected}) == len(expected))  # else skipped
        destination = storelet.Directory(kept) if way == "streamed" else None
        with storelet.ZipBackup("tree", destination=destination) as backup:
            backup.include_directory(source)
            if destination is None:
                backup.save_to_directory(kept)
        (path,) = kept.iterdir()
        archive = storelet.open_archive(path)
        assert archive.problems == []
        assert archive.extract(target).refused == []
        assert describe_tree(target) == expected
        again = archive.extract(target)
        assert (again.files, again.refused) == (0, [])
        files = [path for path in target.rglob("*") if not stat.S_ISDIR(path.lstat().st_mode)]
        assert again.there == len(files)
        assert describe_tree(target) == expected
        for each in archive.members():
            if not each.is_directory:
                assert len(archive.read(each)) == each.size
