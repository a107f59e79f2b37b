"""Archives with bytes that are not theirs: what comes out is right, or does not come out."""

from __future__ import annotations

import os
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storelet
from tests.rawzip import RawMember, build_zip
from tests.trees import describe_tree, make_strange_tree

Contents = set[bytes]
PASSWORD = "open sesame"
SIGNATURES = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\7\x08")
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 1 << 31, 0xFFFFFFFF)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, Contents]]:
    """Make good archives, each with what is in its members: Storelet's own, and another's."""
    top = tmp_path_factory.mktemp("good")
    source = top / "source"
    make_strange_tree(source)
    own = []
    for encryption in (None, storelet.Encryption(password=PASSWORD)):
        kept = top / ("kept" if encryption is None else "encrypted")
        kept.mkdir()
        destination = storelet.Directory(kept)
        with storelet.ZipBackup("good", destination=destination, encryption=encryption) as backup:
            backup.include_directory(source)
        (path,) = kept.iterdir()
        own.append(path.read_bytes())
    contents = {
        os.readlink(os.fsencode(each)) if each.is_symlink() else each.read_bytes()
        for each in source.rglob("*")
        if each.is_symlink() or each.is_file()
    }
    dice = random.Random(1)  # noqa: S311 - no secret
    members = [
        RawMember(name=b"%d/%d" % (n % 5, n), content=dice.randbytes(n * 9), method=8 * (n % 2))
        for n in range(40)
    ]
    return [
        *((data, contents) for data in own),
        (build_zip(members, comment=b"a comment"), {each.content for each in members}),
    ]


def flip(data: bytearray, at: int, dice: random.Random) -> None:
    data[at] ^= 1 << dice.randrange(8)


def overwrite(data: bytearray, at: int, dice: random.Random) -> None:
    number = dice.choice([*NUMBERS, dice.getrandbits(32), len(data), at])
    packed = struct.pack("<Q", number)[: dice.choice([2, 4, 8])]
    data[at : at + len(packed)] = packed[: len(data) - at]


def fill(data: bytearray, at: int, dice: random.Random) -> None:
    size = min(dice.choice([1, 30, 500, 5000]), len(data) - at)
    data[at : at + size] = dice.choice([bytes(size), dice.randbytes(size), b"PK\3\4" * size])[:size]


def cut_out(data: bytearray, at: int, dice: random.Random) -> None:
    del data[at : at + dice.choice([1, 3, 46, 1000, len(data)])]


def double(data: bytearray, at: int, dice: random.Random) -> None:
    data[at:at] = data[at : at + dice.choice([1, 46, 1000, 20_000])]


def copy_over(data: bytearray, at: int, dice: random.Random) -> None:
    size = min(dice.choice([4, 46, 300]), len(data) - at)
    start = dice.randrange(len(data) - size + 1)
    data[at : at + size] = data[start : start + size]


MUTATIONS: list[Callable[[bytearray, int, random.Random], None]] = [
    flip,
    flip,
    overwrite,
    overwrite,
    overwrite,
    fill,
    cut_out,
    double,
    copy_over,
]


def mutate(good: bytes, dice: random.Random) -> bytes:
    """Change a few places, most of them in headers."""
    data = bytearray(good)
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        if not data:
            break
        at = dice.randrange(len(data))
        if dice.random() < 0.8:
            header = data.find(dice.choice(SIGNATURES), at)
            if header >= 0:
                at = min(header + dice.randrange(120), len(data) - 1)
        if dice.random() < 0.1:
            at = max(len(data) - 1 - dice.randrange(100), 0)
        dice.choice(MUTATIONS)(data, at, dice)
    return bytes(data)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["own", "encrypted", "another's"])
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, (1 << 64) - 1))
def test_what_comes_out_of_a_damaged_archive_is_right(
    archives: list[tuple[bytes, Contents]],
    capfd: pytest.CaptureFixture[str],
    which: int,
    seed: int,
) -> None:
    good, contents = archives[which]
    data = mutate(good, random.Random(seed))  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        outside = top / "outside"
        outside.mkdir()
        (outside / "file").write_text("theirs")
        (top / "damaged.zip").write_bytes(data)
        before = describe_tree(outside), sorted(os.listdir(top)), os.lstat(top / "damaged.zip")[:7]
        target = top / "target"
        try:
            archive = storelet.open_archive(top / "damaged.zip", password=PASSWORD)
            assert_right(archive, target, contents)
        except storelet.StoreletError as error:
            assert str(error)
        names = sorted(each for each in os.listdir(top) if each != "target")
        after = describe_tree(outside), names, os.lstat(top / "damaged.zip")[:7]
        assert after == before
        assert not [path for path in target.rglob("*") if path.name.endswith(".part")]
    assert capfd.readouterr().err == ""


def assert_right(archive: storelet.OpenedArchive, target: Path, contents: Contents) -> None:
    """Restore what can be; see that all of it was in the archive before it was damaged."""
    members = list(archive.members())
    result = archive.extract(target)
    assert all(isinstance(name, str) and reason for name, reason in result.refused)
    restored = [path for path in target.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in restored:
        assert path.read_bytes() in contents, path
    for member in members:
        try:
            content = archive.read(member)
        except (storelet.DamagedArchiveError, storelet.CredentialsError):
            continue
        assert content in contents or member.is_directory, member
