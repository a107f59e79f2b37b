"""Deflate: bytes in, smaller bytes out; what does not shrink is stored.

The streams are raw deflate (RFC 1951), as APPNOTE 4.4.5 wants them for method 8.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

__all__ = ["deflate_blocks", "deflate_whole"]

_LEVEL = 6
_RAW = -zlib.MAX_WBITS


def deflate_whole(data: bytes) -> bytes | None:
    """Return the whole of a member deflated, or None where it does not shrink."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    deflated = compressor.compress(data) + compressor.flush()
    return deflated if len(deflated) < len(data) else None


def deflate_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Deflate a stream of blocks of any size; zlib itself stores what does not shrink."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()
