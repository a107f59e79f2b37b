"""Rows in columns, as awk gets them."""

from __future__ import annotations

import pytest

from storeletd.ctl.tables import Column, align_cells, align_rows, print_table

COLUMNS = [Column(title="NAME"), Column(title="SIZE", right=True), Column(title="AGE", right=True)]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["website", "1.2 GiB", "3h"], ["db", "17.0 KiB", "12m"]]
    assert align_rows(COLUMNS, rows) == [
        "NAME         SIZE  AGE",
        "website   1.2 GiB   3h",
        "db       17.0 KiB  12m",
    ]


def test_letters_that_take_two_columns_keep_rows_aligned() -> None:
    titles, wide, narrow = align_rows(COLUMNS, [["日本", "1 B", "3h"], ["a\u0301b", "1 B", "3h"]])
    assert (titles, wide, narrow) == ("NAME  SIZE  AGE", "日本   1 B   3h", "a\u0301b     1 B   3h")


def test_no_rows_are_no_cells() -> None:
    assert align_cells(COLUMNS, []) == []


def test_every_cell_is_one_field_for_awk(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [["two  spaces", "", "[bold]\x1b[31m"]])
    title, row = capsys.readouterr().out.splitlines()
    assert title.split() == ["NAME", "SIZE", "AGE"]
    assert [field.strip() for field in row.split("  ") if field] == [
        "two spaces",
        "-",
        r"[bold]\x1b[31m",
    ]
