"""Deflate: bytes in, smaller bytes out, by the engine that a compression asks for.

The streams are raw deflate (RFC 1951), as APPNOTE 4.4.5 wants them for method 8. What is small
is deflated whole. What is large comes in blocks, which are deflated apart, on all cores, and
joined in order: each but the last ends with a full flush, so that it ends on a whole byte and no
later one refers back into it. A block that does not shrink becomes stored blocks inside the
stream (RFC 1951, 3.2.4).

The engines are imported when they are first asked for; they let go of the GIL, so threads do.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Literal

__all__ = [
    "COMPRESSIONS",
    "Compression",
    "Engine",
    "Joined",
    "count_cores",
    "deflate_blocks",
    "find_engine",
    "squeeze",
    "unsqueeze",
]

Compression = Literal["fast", "small", "none"]
COMPRESSIONS: tuple[Compression, ...] = ("fast", "small", "none")

_log = logging.getLogger("storelet")

_RAW = -zlib.MAX_WBITS
_ZLIB_LEVEL = 6
_SAMPLES = 8
_SAMPLE_BYTES = 4 << 10
_STORED_BYTES = 0xFFFF  # of a stored block, RFC 1951 3.2.4


@dataclass(frozen=True, slots=True)
class Engine:
    """How to deflate."""

    whole: Callable[[bytes], bytes | None]  # None where it does not shrink
    block: Callable[[bytes, bool], bytes]  # a block of a stream, and whether it is the last
    crc32: Callable[[bytes], int]


def count_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@cache
def find_engine(compression: Compression) -> Engine:
    """Return the engine for `compression`, zlib where the library for it is not at hand."""
    try:
        return _ENGINES[compression]()
    except ImportError as error:
        _log.warning("%s: deflating with zlib, which is slower", error)
        return _zlib_engine()


def squeeze(data: bytes) -> bytes:
    """Return `data` as it takes less memory while it waits; quick rather than small."""
    return _find_squeezer()(data) or b"\6" + data


def unsqueeze(squeezed: bytes) -> bytes:
    """Return what was squeezed."""
    # 6 begins a deflate block of the type that RFC 1951 reserves.
    return squeezed[1:] if squeezed[:1] == b"\6" else zlib.decompress(squeezed, _RAW)


class Joined:
    """Size and CRC of the blocks that `deflate_blocks` has joined so far."""

    def __init__(self) -> None:
        self.size = 0  # bytes before deflating
        self.crc = 0


def deflate_blocks(engine: Engine, blocks: Iterable[bytes], joined: Joined) -> Iterator[bytes]:
    """Yield the stream that blocks of any size deflate to; `joined` counts them.

    At most two blocks for each core are in memory at a time. What `blocks` raises comes through.
    """
    cores = count_cores()
    combine = _find_combine()
    with ThreadPoolExecutor(cores, thread_name_prefix="storelet-deflate") as pool:
        waiting: deque[tuple[int, Future[tuple[bytes, int]]]] = deque()
        rest = iter(blocks)
        block, following = next(rest, b""), next(rest, None)
        while True:
            task = pool.submit(_deflate_block, engine, block, following is None)
            waiting.append((len(block), task))
            while waiting and (following is None or len(waiting) >= 2 * cores):
                size, done = waiting.popleft()
                deflated, crc = done.result()
                joined.crc = combine(joined.crc, crc, size)
                joined.size += size
                yield deflated
            if following is None:
                return
            block, following = following, next(rest, None)


def _deflate_block(engine: Engine, block: bytes, is_last: bool) -> tuple[bytes, int]:
    return engine.block(block, is_last), engine.crc32(block)


def _isal_engine() -> Engine:
    """ISA-L, level 2: 8 % bigger than zlib's 6 at ten times its speed."""
    from isal import isal_zlib

    def deflate(data: bytes, flush: int) -> bytes:
        compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, _RAW)
        return bytes(compressor.compress(data) + compressor.flush(flush))

    return Engine(
        lambda data: _if_smaller(isal_zlib.compress(data, 2, _RAW), data),
        lambda data, is_last: _block(data, is_last, deflate),
        isal_zlib.crc32,
    )


def _small_engine() -> Engine:
    """Level 6 of libdeflate for what is deflated whole; it has no flush: zlib-ng's for blocks."""
    import deflate as libdeflate
    from zlib_ng import zlib_ng

    quick = _find_squeezer()

    def deflate(data: bytes, flush: int) -> bytes:
        compressor = zlib_ng.compressobj(6, zlib_ng.DEFLATED, _RAW)
        return bytes(compressor.compress(data) + compressor.flush(flush))

    def whole(data: bytes) -> bytes | None:
        if _looks_random(data, quick):
            return None
        return _if_smaller(bytes(libdeflate.deflate_compress(data, 6)), data)

    def block(data: bytes, is_last: bool) -> bytes:
        if _looks_random(data, quick):
            return _stored_blocks(data, is_last)
        return _block(data, is_last, deflate)

    return Engine(whole, block, libdeflate.crc32)


def _zlib_engine() -> Engine:
    def deflate(data: bytes, flush: int) -> bytes:
        compressor = zlib.compressobj(_ZLIB_LEVEL, zlib.DEFLATED, _RAW)
        return compressor.compress(data) + compressor.flush(flush)

    return Engine(
        lambda data: _if_smaller(deflate(data, zlib.Z_FINISH), data),
        lambda data, is_last: _block(data, is_last, deflate),
        zlib.crc32,
    )


def _no_engine() -> Engine:
    return Engine(lambda _data: None, _stored_blocks, zlib.crc32)


_ENGINES: dict[Compression, Callable[[], Engine]] = {
    "fast": _isal_engine,
    "small": _small_engine,
    "none": _no_engine,
}


def _looks_random(data: bytes, quick: Callable[[bytes], bytes | None]) -> bool:
    """Tell whether samples of `data` do not shrink: random data take the slow engines longest."""
    step = len(data) // _SAMPLES
    if step < 4 * _SAMPLE_BYTES:
        return False
    starts = range(0, _SAMPLES * step, step)
    sample = b"".join(data[start : start + _SAMPLE_BYTES] for start in starts)
    return quick(sample) is None


def _if_smaller(deflated: bytes, data: bytes) -> bytes | None:
    return deflated if len(deflated) < len(data) else None


def _block(data: bytes, is_last: bool, deflate: Callable[[bytes, int], bytes]) -> bytes:
    deflated = deflate(data, zlib.Z_FINISH if is_last else zlib.Z_FULL_FLUSH)
    return deflated if len(deflated) < len(data) else _stored_blocks(data, is_last)


def _stored_blocks(data: bytes, is_last: bool) -> bytes:
    """Put data into stored blocks: a header of 5 bytes each, then the bytes as they are."""
    starts = range(0, len(data), _STORED_BYTES) or range(1)
    pieces = []
    for start in starts:
        piece = data[start : start + _STORED_BYTES]
        is_final = is_last and start == starts[-1]
        pieces += [struct.pack("<BHH", is_final, len(piece), len(piece) ^ 0xFFFF), piece]
    return b"".join(pieces)


@cache
def _find_squeezer() -> Callable[[bytes], bytes | None]:
    try:
        return _isal_engine().whole
    except ImportError:
        return lambda data: _if_smaller(zlib.compress(data, 1, _RAW), data)


@cache
def _find_combine() -> Callable[[int, int, int], int]:
    for library in ("isal.isal_zlib", "zlib_ng.zlib_ng"):
        try:
            module = __import__(library, fromlist=["crc32_combine"])
        except ImportError:
            continue
        combine: Callable[[int, int, int], int] = module.crc32_combine
        return combine
    return _combine_slowly


def _combine_slowly(first: int, second: int, second_bytes: int) -> int:
    """Combine by feeding zeros: the CRC of `first` shifted over the second piece.

    CRC-32 is linear: crc(a + b) = crc(a + zeros) ^ crc(zeros) ^ crc(b), with as many zeros.
    """
    zeros = bytes(1 << 20)
    shifted, plain = first, 0
    left = second_bytes
    while left:
        some = zeros[: min(left, len(zeros))]
        shifted, plain = zlib.crc32(some, shifted), zlib.crc32(some, plain)
        left -= len(some)
    return shifted ^ plain ^ second
