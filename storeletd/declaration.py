"""Declarations: what a job file says, where it says it, and what is wrong with that.

The readers of YAML and of Python modules make a `Declaration`; `check_declaration` holds it to
the settings' model and tells every problem in the file's own terms: its place, the key as written
there, what was expected, the nearest known key, an example. No message shows a value, which may
be a secret, but for the spelling of what YAML does not read as text.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from storeletd.includes import INCLUDE_KINDS
from storeletd.jobs import JobProblem
from storeletd.saves import SAVE_KINDS
from storeletd.settings import SETTINGS_IN, CatchUp, Language, Settings
from storeletd.values import TEXT_EXPECTED

__all__ = ["Declaration", "Key", "Mark", "check_declaration", "find_near"]

Key = tuple[str | int, ...]  # of a setting: ("include", 1, "directory")

_KINDS = (INCLUDE_KINDS, SAVE_KINDS)
_ITEM_MODELS = {model.__name__: model for kinds in _KINDS for model in kinds.values()} | {
    CatchUp.__name__: CatchUp
}

# pydantic's words for what it expected, in ours; what is not here is near enough
_EXPECTATIONS = {
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping",
    "greater_than_equal": "expected {ge} or more",
    "int_type": "expected a whole number",
    "less_than_equal": "expected {le} or less",
    "model_type": "expected a mapping",
    "string_type": "expected text",
    "too_short": "expected at least one",
    "tuple_type": "expected a list",
}

_LIMITS = {"greater_than_equal", "less_than_equal"}


class Mark(NamedTuple):
    """Where a setting, or an item of a list, stands in a file."""

    line: int
    column: int  # of its key, characters from 1
    value: int | None = None  # column of its value, where that begins in the same line


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a job file says."""

    file: str
    language: Language
    values: Mapping[str, object]  # by the settings' names, whatever the language
    marks: Mapping[Key, Mark]
    spellings: Mapping[Key, str]  # of YAML's values that are no text
    problems: tuple[JobProblem, ...]  # found by the reader

    def problem(
        self, key: Key, message: str, hint: str | None = None, *, of_key: bool = False
    ) -> JobProblem:
        """Make a problem with the place of the value at `key`, or of the key (`of_key`).

        Where there is no such key it is that of the innermost thing around it.
        """
        ends = (end for end in range(len(key), 0, -1) if key[:end] in self.marks)
        end = next(ends, 0)
        mark = self.marks.get(key[:end])
        value = None if mark is None or of_key or end < len(key) else mark.value
        return JobProblem(
            file=self.file,
            line=mark and mark.line,
            column=mark and (value or mark.column),
            key=format_key(key, self.language) or None,
            message=message,
            hint=hint,
        )


def format_key(key: Key, language: Language) -> str:
    """Write a key as messages have it: `include[1].directory`, or `ENVIRONMENT.PGHOST`.

    What follows a colon was to be a value: of `{access_key:AKIA…}` YAML makes a key.
    """
    text = ""
    for step in key:
        if isinstance(step, str) and ":" in step:
            step = f"{step.partition(':')[0]}:…"
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    head, dot, rest = text.partition(".")
    return f"{head.upper()}{dot}{rest}" if language == "python" else text


def find_near(word: str, known: Mapping[str, Any], cutoff: float = 0.6) -> str | None:
    """Return the known word that was probably meant; `cutoff` is difflib's ratio."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def check_declaration(declaration: Declaration) -> tuple[Settings | None, list[JobProblem]]:
    """Return the settings where they are right, and all that is wrong otherwise."""
    problems = list(declaration.problems)
    try:
        settings = SETTINGS_IN[declaration.language].model_validate(declaration.values)
    except ValidationError as error:
        problems += _translate(declaration, error)
        settings = None
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    return settings, problems


class _Place(NamedTuple):
    """Where a validation error is."""

    key: Key = ()
    owner: type[BaseModel] = Settings  # the model whose field the key is, or should be
    inside: type[BaseModel] | None = Settings  # the model of what is at the key
    name: str = ""  # of the last setting on the way
    setting: FieldInfo | None = None  # and its declaration


def _translate(declaration: Declaration, error: ValidationError) -> list[JobProblem]:
    said = {problem.key for problem in declaration.problems}
    details = error.errors(include_url=False, include_input=False)
    places = [_locate(declaration, detail["loc"]) for detail in details]
    meant = {
        (*place.key[:-1], find_near(str(place.key[-1]), place.owner.model_fields))
        for place, detail in zip(places, details, strict=True)
        if detail["type"] == "extra_forbidden"
    }
    problems = []
    for place, detail in zip(places, details, strict=True):
        if detail["type"] == "missing" and place.key in meant:
            continue  # it is there, misspelled
        if detail["type"] == "too_short" and _value_at(declaration, place.key):
            continue  # pydantic counts the good items only, and each bad one has its own error
        message, hint = _explain(declaration, place, detail)
        is_unknown = detail["type"] == "extra_forbidden"
        problem = declaration.problem(place.key, message, hint, of_key=is_unknown)
        if problem.key not in said:
            problems.append(problem)
    return problems


def _locate(declaration: Declaration, location: tuple[str | int, ...]) -> _Place:
    """Follow pydantic's location through the values; it has steps that are in no job file."""
    place = _Place()
    at: object = declaration.values
    for step in location:
        if isinstance(at, list | tuple) and isinstance(step, int):
            place, at = place._replace(key=(*place.key, step)), at[step]
        elif isinstance(at, dict) and step in _ITEM_MODELS:
            place = place._replace(inside=_ITEM_MODELS[str(step)])
        elif isinstance(at, dict) and step != "[key]":
            place, at = _enter(place, str(step)), at.get(step)
    return place


def _enter(place: _Place, name: str) -> _Place:
    key = (*place.key, name)
    setting = place.inside.model_fields.get(name) if place.inside else None
    if place.inside is None or setting is None:
        return place._replace(key=key, owner=place.inside or place.owner)
    kinds = (setting.annotation, *get_args(setting.annotation))
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return _Place(key, place.inside, models[0] if models else None, name, setting)


def _explain(
    declaration: Declaration, place: _Place, detail: ErrorDetails
) -> tuple[str, str | None]:
    """Return what was expected and an example."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _explain_unknown(place)
    hint = _example(declaration.language, place)
    if kind == "missing":
        return _explain_missing(declaration.language, place), hint
    if kind == "value_error":
        return str(detail["ctx"]["error"]), hint
    if kind == "literal_error":
        return f"expected {detail['ctx']['expected'].replace(chr(39), '')}", hint
    expected = _EXPECTATIONS.get(kind, detail["msg"].replace("Input should be", "expected"))
    if kind in _LIMITS:
        expected = expected.format_map(detail["ctx"])
    if kind in {"string_type", TEXT_EXPECTED}:
        expected += _explain_spelling(declaration, place.key)
    return expected, hint


def _explain_unknown(place: _Place) -> tuple[str, str | None]:
    name, known = str(place.key[-1]), place.owner.model_fields
    for kinds in _KINDS:
        if place.owner in kinds.values() and name in kinds:
            return f"expected exactly one of {', '.join(kinds)} in an item", None
        others = [kind for kind, model in kinds.items() if name in model.model_fields]
        if place.owner in kinds.values() and others:
            return f"goes only with {' or '.join(others)}", None
    near = find_near(name, known)
    if near:
        return f"unknown key, did you mean {near}?", None
    return "unknown key", f"known here: {', '.join(known)}"


def _explain_missing(language: Language, place: _Place) -> str:
    if place.key != ("schedule",):
        return "missing"
    manual = 'SCHEDULE = "manual"' if language == "python" else "schedule: manual"
    return f"missing; {manual} is the way to say that only run-now starts the job"


def _explain_spelling(declaration: Declaration, key: Key) -> str:
    """Say what YAML made of the text, but show nothing that may be a secret."""
    spelling = declaration.spellings.get(key)
    if spelling is None:
        return ""
    if key[0] == "environment":
        return ": put it in quotes"
    what = type(_value_at(declaration, key)).__name__
    read_as = {"bool": "true or false", "int": "a number", "float": "a number"}.get(what, what)
    return f', but YAML reads {spelling} as {read_as}: write "{spelling}"'


def _example(language: Language, place: _Place) -> str | None:
    if place.setting is None or not place.setting.examples:
        return None
    example = place.setting.examples[0]
    if language == "python":
        return f"for example {place.name.upper()} = {example!r}"
    return f"for example {place.name}: {json.dumps(example, ensure_ascii=False)}"


def _value_at(declaration: Declaration, key: Key) -> object:
    at: Any = declaration.values
    for step in key:
        at = at[step] if isinstance(step, int) else at.get(step)
    return at
