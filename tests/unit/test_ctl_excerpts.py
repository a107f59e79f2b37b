"""A line of a file with a caret under the place that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from storeletd.ctl.excerpts import draw_excerpt
from storeletd.ctl.tables import width_of
from tests.terminal import run_on_terminal, show

RED, PLAIN = "\x1b[31m", "\x1b[0m"


@pytest.mark.parametrize(
    ("line", "at", "shown", "caret"),
    [
        ("name: x", 6, "name: x", "      ^"),
        ("", 0, "", "^"),
        ("name:", 5, "name:", "     ^"),
        ("\tname: x", 1, "        name: x", "        ^"),
        ("ab\tx", 3, "ab      x", "        ^"),
        ("größe: x", 7, "größe: x", "       ^"),
        ("日本: x", 4, "日本: x", "      ^"),
        ("a\u0301: x", 4, "a\u0301: x", "   ^"),
        ("a\x1b[2J: x", 7, r"a\x1b[2J: x", "          ^"),
        ("\udcfc: x", 3, r"\xfc: x", "      ^"),
    ],
)
def test_the_caret_is_under_its_character(line: str, at: int, shown: str, caret: str) -> None:
    assert draw_excerpt(7, line, at, width=80) == [f"    7 | {shown}".rstrip(), f"      | {caret}"]


@pytest.mark.parametrize("at", [0, 1, 300, 580, 598, 599])
@pytest.mark.parametrize("filler", ["abcdef", "日本語日本語", "\ta\tb\tc"])
def test_a_long_line_is_cut_around_the_caret(at: int, filler: str) -> None:
    line = (filler * 100)[:at] + "X" + (filler * 100)[at + 1 :]
    shown, caret = draw_excerpt(123, line, at, width=60)
    assert width_of(shown) <= 60
    assert shown.startswith("  123 | ")
    before = shown[: shown.index("X")]
    assert width_of(before) == caret.index("^")
    assert ("…" in before) == (at > 1)


def test_a_line_that_just_fits_is_not_cut() -> None:
    line = "x" * 51
    assert draw_excerpt(1, line, 0, width=60)[0] == f"    1 | {line}"
    assert draw_excerpt(1, line + "x", 0, width=60)[0] == f"    1 | {'x' * 50}…"


def test_a_terminal_gets_colours_and_its_own_width(tmp_path: Path) -> None:
    path = tmp_path / "website.yaml"
    path.write_text(f"schedule: {'x' * 300}\ninclude: [{{file: /x}}]\nsave: [{{directory: /y}}]\n")
    head, line, caret, _hint = run_on_terminal("validate", str(path), columns=50).splitlines()
    assert (head[: len(RED)], head[-len(PLAIN) :]) == (RED, PLAIN)
    assert line == f"    1 | schedule: {'x' * 30}…"
    assert caret == f"{RED}      |           ^{PLAIN}"
    head, line, caret, _hint = run_on_terminal("validate", str(path), NO_COLOR="1").splitlines()
    assert head.startswith(str(path))
    assert line == f"    1 | schedule: {'x' * 60}…"
    assert show("validate", str(path)).splitlines()[1] == line
