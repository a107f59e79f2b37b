"""The manual, README.rst, as tests read it: its chapters and their examples."""

from __future__ import annotations

import re
import textwrap

from tests.helpers import CLONE

__all__ = ["blocks_of", "chapter_of"]

_README = (CLONE / "README.rst").read_text(encoding="utf-8")


def chapter_of(title: str) -> str:
    """Return a chapter of the manual."""
    return _README.split(f"\n{title}\n===")[1].split("\n\n\n")[0]


def blocks_of(chapter: str, language: str) -> list[str]:
    """Return its examples in a language."""
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", f"{chapter}\n")
    return [textwrap.dedent(each).strip("\n") for each in found]
