"""Masking: lines of a job file as they may be shown to people, without what may be a secret.

A value is shown only where the settings say what stands there, and neither declare it as a secret
nor as something that secrets may be in (`repr=False`). Keys are shown, comments are left out.
Where a file cannot be parsed nobody knows what is what: of each line its key is left.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from storeletd.jobfile import SUFFIXES, open_job_file, read_opened
from storeletd.jobs import JobFileError
from storeletd.modulefile import Columns, find_assignments, parse_module
from storeletd.secrets import REFERENCES, SecretReference
from storeletd.settings import MODULE_CONSTANTS, SETTINGS_IN, Language
from storeletd.yamlfile import compose_yaml

__all__ = ["MaskedFile", "mask_file"]

_MASK = "***"
_KEY = re.compile(r"[A-Za-z_][\w-]{0,63}")  # what is longer may be no key
_LINE_ENDS = {"yaml": re.compile("\r\n|[\r\n\x85\u2028\u2029]"), "python": re.compile("\r\n?|\n")}
# What is left of a line where the file cannot be parsed.
_LEFT = {
    "yaml": re.compile(rf"\s*(?:-\s+)*(?:{_KEY.pattern}\s*:(?=\s|$)\s*)?"),
    "python": re.compile(rf"\s*(?:(?:with\s+)?{_KEY.pattern}(?:\.\w+)*\s*[=(]\s*)?"),
}


def mask_file(path: Path) -> MaskedFile | None:
    """Read a job file to show lines of it; None where it cannot be read."""
    language = SUFFIXES.get(path.suffix)
    try:
        with open_job_file(path) as descriptor:
            data = read_opened(descriptor, path)
    except JobFileError:
        return None
    return language and MaskedFile(data.decode("utf-8-sig", "surrogateescape"), language)


class _Span(NamedTuple):
    """Text within a line, up to but without `end`; characters from 0."""

    start: int
    end: int
    is_shown: bool


class MaskedFile:
    """The lines of a job file."""

    def __init__(self, text: str, language: Language) -> None:
        self._lines = _LINE_ENDS[language].split(text)
        self._language = language
        self._spans: dict[int, list[_Span]] = defaultdict(list)
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # bytes that are not UTF-8
        try:
            find = _find_in_yaml if language == "yaml" else _find_in_module
            for start, end, is_shown in find(text):
                self._add(start, end, is_shown)
        except JobFileError:
            self._spans.clear()

    def show(self, line: int, column: int) -> tuple[str, int]:
        """Return a line, and where in what is returned (from 0) its `column` is (from 1)."""
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        return _mask(text, self._spans.get(line) or self._fall_back(text), column - 1)

    def _add(self, start: tuple[int, int], end: tuple[int, int], is_shown: bool) -> None:
        for line in range(start[0], end[0] + 1):
            text = self._lines[line - 1] if line <= len(self._lines) else ""
            first = start[1] if line == start[0] else len(text) - len(text.lstrip())
            last = end[1] if line == end[0] else len(text.rstrip())
            if first < last:
                self._spans[line].append(_Span(first, last, is_shown))

    def _fall_back(self, text: str) -> Sequence[_Span]:
        left = _LEFT[self._language].match(text)
        end, length = left.end() if left else 0, len(text.rstrip())
        return [_Span(0, end, True)] + [_Span(end, length, False)] * (end < length)


def _mask(text: str, spans: Sequence[_Span], column: int) -> tuple[str, int]:
    """Return the text with each span masked that is not shown, and where `column` is in it.

    A mask is as long as it must be for the column to be in it, which says no more than that does.
    """
    shown, at, place = "", 0, None
    for span in [*spans, _Span(len(text), len(text), True)]:
        rest = text[at : span.start].partition("#")[0]
        if at <= column < at + len(rest):
            place = len(shown) + column - at
        shown += rest
        if span.start <= column < span.end or column == len(text) == span.end:
            place = len(shown) + column - span.start
        stars = (place or 0) + 1 - len(shown)  # up to the column, if it is in here
        shown += text[span.start : span.end] if span.is_shown else _MASK + "*" * (stars - 3)
        at = span.end
    shown = shown.rstrip()
    return shown, len(shown) if place is None else place


# What stands where


class _Spot(NamedTuple):
    """What may stand at a place among the settings."""

    models: Sequence[type[BaseModel]] = ()  # of a mapping there
    has_names: bool = False  # a mapping's keys are names that its author chose
    is_open: bool = False  # text there is no secret

    def enter(self, key: str | None) -> _Spot:
        """Return what may stand at a key."""
        if self.has_names:
            return _Spot(is_open=self.is_open)
        fields = [model.model_fields[key] for model in self.models if key in model.model_fields]
        parts = [part for field in fields for part in _parts(field.annotation)]
        return _Spot(
            models=_models_of(parts),
            has_names=any(get_origin(part) is dict for part in parts),
            is_open=bool(fields) and not any(map(_may_hold_secrets, fields)),
        )

    def shows(self, key: str | None) -> bool:
        """Whether a key is one, and not a secret at a place where none should be."""
        if self.models or self.has_names:
            return key is not None and _KEY.fullmatch(key) is not None
        return key in REFERENCES


def _parts(annotation: object) -> Iterator[object]:
    """Yield all that a type consists of, and the type."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _models_of(parts: Iterable[object]) -> list[type[BaseModel]]:
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _may_hold_secrets(field: FieldInfo) -> bool:
    parts = list(_parts(field.annotation))
    within = (each for model in _models_of(parts) for each in model.model_fields.values())
    is_secret = not field.repr or SecretStr in parts or SecretReference in parts
    return is_secret or any(map(_may_hold_secrets, within))


# The texts of a file: from (line, from 1; column, from 0), up to but without, whether it is shown

_Found = tuple[tuple[int, int], tuple[int, int], bool]


def _find_in_yaml(text: str) -> Iterator[_Found]:
    node = compose_yaml(text, "")
    for each, is_shown in _walk_nodes(node, _Spot(models=[SETTINGS_IN["yaml"]])) if node else ():
        start, end = each.start_mark, each.end_mark
        yield (start.line + 1, start.column), (end.line + 1, end.column), is_shown


def _walk_nodes(node: yaml.Node, spot: _Spot) -> Iterator[tuple[yaml.Node, bool]]:
    match node:
        case yaml.MappingNode():
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                yield key, spot.shows(name)
                yield from _walk_nodes(value, spot.enter(name))
        case yaml.SequenceNode():
            for item in node.value:
                yield from _walk_nodes(item, spot)
        case _:
            yield node, spot.is_open and node.tag.startswith("tag:yaml.org,")


def _find_in_module(text: str) -> Iterator[_Found]:
    columns = Columns(text)
    for statement in parse_module(text, "").body:
        for each, is_shown in _walk_statement(statement):
            start = columns.of(each.lineno, each.col_offset)
            end_line = each.end_lineno or each.lineno
            end = columns.of(end_line, each.end_col_offset or 0)
            yield (each.lineno, start - 1), (end_line, end - 1), is_shown


def _walk_statement(statement: ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    named = [(name, value) for name, value in find_assignments(statement) if value is not None]
    if not named:
        yield statement, False
        return
    root = _Spot(models=[SETTINGS_IN["python"]])
    for name, _value in named:
        yield name, True
    name, value = named[-1]
    yield from _walk_expression(value, root.enter(MODULE_CONSTANTS.get(name.id)))


def _walk_expression(node: ast.expr, spot: _Spot) -> Iterator[tuple[ast.expr, bool]]:
    match node:
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                name = key.value if isinstance(key, ast.Constant) else None
                name = name if isinstance(name, str) else None
                if key is not None:  # as that of `**others`
                    yield key, spot.shows(name)
                yield from _walk_expression(value, spot.enter(name))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            for item in items:
                yield from _walk_expression(item, spot)
        case _:
            yield node, spot.is_open
