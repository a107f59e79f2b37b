"""The manual's table of promises: each is kept by a line that is there, and by a test that is."""

from __future__ import annotations

import re

import pytest

from tests.helpers import CLONE
from tests.sabotage import PROMISES, Promise


def table() -> list[str]:
    """Read the promises of the manual's table."""
    manual = (CLONE / "README.rst").read_text(encoding="utf-8")
    chapter = manual.split("What Storelet promises\n")[1]
    _, rows, _ = re.split(r"^=+ =+$", chapter, maxsplit=3, flags=re.MULTILINE)[1:4]
    return [row.partition("``")[0].strip() for row in rows.strip().splitlines()]


def test_the_manual_and_the_sabotage_have_the_same_promises() -> None:
    assert table() == [promise.text for promise in PROMISES]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.text)
def test_what_keeps_a_promise_is_there(promise: Promise) -> None:
    text = (CLONE / promise.file).read_text(encoding="utf-8")
    assert text.count(promise.line) == 1
    path, _, name = promise.test.partition("::")
    assert not name or f"def {name}(" in (CLONE / path).read_text(encoding="utf-8")
