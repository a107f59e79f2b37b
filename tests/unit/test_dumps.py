"""What is done to dumps on their way back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storeletd.dumps import rename_database

DUMP = b"""\
-- Current Database: `shop`
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;

USE `shop`;
INSERT INTO `t` VALUES ('USE `shop`;'),('\\nUSE `shop`;');
ALTER DATABASE `shop` CHARACTER SET utf8mb4;
""" + (b"INSERT INTO `t` VALUES (" + b"'USE `shop`;'," * 1_000 + b");\n")  # fmt: skip


@example([DUMP.rindex(b"USE")])
@given(st.lists(st.integers(0, len(DUMP)), max_size=20))
def test_a_database_is_renamed_wherever_its_dump_is_cut(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(DUMP)})
    blocks = [DUMP[start:end] for start, end in pairwise(places)]
    renamed = b"".join(rename_database(blocks, "shop", r"new`\1"))
    expected = DUMP.splitlines(keepends=True)
    for number in (1, 3, 5):
        expected[number] = expected[number].replace(b"`shop`", rb"`new``\1`")
    assert renamed == b"".join(expected)


def test_a_line_without_end_is_passed_on_as_it_comes() -> None:
    """A row may have a gigabyte."""

    def blocks() -> Iterator[bytes]:
        yield b"INSERT INTO `t` VALUES ('" + b"x" * 100_000
        pytest.fail("more is read than what is passed on")

    assert len(next(rename_database(blocks(), "shop", "new"))) > 100_000
