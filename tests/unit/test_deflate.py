"""Deflate: every engine's streams are what zlib inflates."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storelet import deflate
from storelet.deflate import COMPRESSIONS, Compression, Joined, deflate_blocks, find_engine
from tests.helpers import CLONE

compressions = st.sampled_from(COMPRESSIONS)
# Blocks as they come: compressible, not so, empty, and around the 65,535 bytes of a stored block.
blocks = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda size: b"abcabc" * size, st.integers(0, 30_000)),
    st.builds(os.urandom, st.sampled_from([1, 65_534, 65_535, 65_536, 200_000])),
)


def inflate(stream: bytes) -> bytes:
    """Inflate a raw stream that must end where its bytes do (RFC 1951)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(stream) + inflater.flush()
    assert inflater.eof
    assert inflater.unused_data == b""
    return data


@given(compressions, st.lists(blocks, max_size=12))
def test_blocks_deflated_apart_are_one_stream(
    compression: Compression, pieces: list[bytes]
) -> None:
    joined = Joined()
    stream = b"".join(deflate_blocks(find_engine(compression), pieces, joined))
    data = b"".join(pieces)
    assert inflate(stream) == data
    assert (joined.size, joined.crc) == (len(data), zlib.crc32(data))


@given(compressions, blocks)
def test_what_is_deflated_whole_is_smaller_or_not_deflated(
    compression: Compression, data: bytes
) -> None:
    engine = find_engine(compression)
    deflated = engine.whole(data)
    if deflated is not None:
        assert len(deflated) < len(data)
        assert inflate(deflated) == data
    assert engine.crc32(data) == zlib.crc32(data)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_does_not_shrink_grows_by_five_bytes_in_sixty_five_thousand(
    compression: Compression,
) -> None:
    data = os.urandom(1 << 20)
    stream = b"".join(deflate_blocks(find_engine(compression), [data], Joined()))
    assert len(stream) <= len(data) + 5 * (len(data) // 65_535 + 1)


def test_none_deflates_nothing() -> None:
    assert find_engine("none").whole(b"a" * 1000) is None


def test_small_is_smaller_than_fast() -> None:
    data = b"".join(b"%d squared is %d\n" % (n, n * n) for n in range(50_000))
    sizes = [len(find_engine(each).whole(data) or data) for each in ("small", "fast", "none")]
    assert sizes == sorted(sizes)


def test_few_blocks_are_ahead_of_what_is_taken() -> None:
    """Memory is bounded, however large the file and slow the destination."""
    given_out = 0

    def blocks_of_a_large_file() -> Iterator[bytes]:
        nonlocal given_out
        for _ in range(1_000):
            given_out += 1
            yield bytes(1_000)

    stream = deflate_blocks(find_engine("fast"), blocks_of_a_large_file(), Joined())
    next(stream)
    assert given_out <= 2 * (os.cpu_count() or 1) + 2
    stream.close()


def test_an_error_of_the_source_comes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(deflate_blocks(find_engine("fast"), broken(), Joined()))


def test_crcs_combine_without_a_library_too() -> None:
    first, second = os.urandom(1_000), os.urandom(3 << 20)
    crcs = zlib.crc32(first), zlib.crc32(second)
    assert deflate._combine_slowly(*crcs, len(second)) == zlib.crc32(first + second)


def test_without_the_libraries_zlib_does_it_and_that_is_said_once() -> None:
    program = """
import logging, sys
sys.modules["isal"] = None  # as if it were not installed
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
import storelet
from storelet.deflate import find_engine
for _ in range(3):
    assert len(find_engine("fast").whole(b"a" * 1000)) < 100
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CLONE, capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("WARNING ")
    assert "zlib" in line


def test_engines_are_imported_when_first_asked_for() -> None:
    program = """
import sys, storelet
engines = {"isal", "deflate", "zlib_ng"}
assert not engines & sys.modules.keys()
storelet.ZipBackup("x", compression="none").close()
assert not engines & sys.modules.keys()
with storelet.ZipBackup("x") as backup:
    backup.include_file("README.rst")
assert "isal" in sys.modules and "deflate" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=CLONE, check=True)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No engine was missing in these tests: they would all test zlib."""
    find_engine.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield
    assert not [each for each in caplog.records if "zlib, which is slower" in each.getMessage()]


@pytest.mark.parametrize("size", [200_000, 1 << 20])
def test_what_is_random_is_not_deflated_slowly_and_what_is_so_in_part_is(size: int) -> None:
    """The slow engines are spared what samples tell, and nothing else."""
    engine = find_engine("small")
    random = os.urandom(size)
    assert deflate._looks_random(random, find_engine("fast").whole)
    assert engine.whole(random) is None
    text = b"word " * (size // 40)
    mixed = random[: size - len(text)] + text  # an eighth
    assert not deflate._looks_random(mixed, find_engine("fast").whole)
    deflated = engine.whole(mixed)
    assert deflated is not None
    assert len(deflated) < size * 9 // 10
    assert len(engine.block(mixed, True)) < size * 9 // 10
