"""YAML job files: their text as values, with the place of each key.

Owns what YAML allows and a job file does not: anchors, tags, duplicate keys, values that are
left empty, numbers in another base (12:30 is 750 in YAML 1.1). Which settings there are is not
known here. Nothing is constructed but text, numbers, true and false.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from storeletd.declaration import Declaration, Key, Mark, format_key
from storeletd.jobs import JobFileError, JobProblem

if TYPE_CHECKING:
    _Mark = yaml.Mark | yaml._yaml.Mark  # of the loader in Python, and of libyaml's

__all__ = ["compose_yaml", "read_yaml"]

# libyaml where PyYAML was built with it: ten times as fast
_LOADER: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 20  # levels; settings need five

_TAG = "tag:yaml.org,2002:"
_TRUE = {"yes", "true", "on"}  # YAML 1.1; the others that are booleans there are false
_QUOTES = "put the value in quotes"


def read_yaml(text: str, file: str) -> Declaration:
    """Read a job file in YAML. Raises JobFileError where it is no YAML at all."""
    node = compose_yaml(text, file)
    if node is None or node.tag == f"{_TAG}null":
        raise JobFileError(
            [JobProblem(file=file, message="empty: expected schedule, include and save")]
        )
    if not isinstance(node, yaml.MappingNode):
        message = "expected settings, such as `schedule: manual`"
        raise JobFileError([_problem(node.start_mark, file, message)])
    reader = _Reader(file)
    values = reader.read(node, ())
    return Declaration(
        file=file,
        language="yaml",
        values=values if isinstance(values, dict) else {},
        marks=reader.marks,
        spellings=reader.spellings,
        problems=tuple(reader.problems),
    )


def compose_yaml(text: str, file: str) -> yaml.Node | None:
    """Return the nodes of a job file; None where it is empty. Raises JobFileError."""
    try:
        problems = _find_refused(text, file)
        node = None if problems else yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise JobFileError([_explain_error(error, text, file)]) from None  # it may quote the text
    if problems:
        raise JobFileError(problems)
    return node


def _find_refused(text: str, file: str) -> list[JobProblem]:
    """Return a problem for each anchor and alias, and for nesting nobody needs.

    Before anything is composed: both make small files large, or stacks overflow.
    """
    problems, depth = [], 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            return [_problem(event.start_mark, file, "nested too deeply")]
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            message = "anchors (&) and aliases (*) are not allowed in job files"
            hint = f"{_QUOTES}, if it is text that begins with & or *"
            problems.append(_problem(event.start_mark, file, message, hint))
    return problems


def _explain_error(error: yaml.YAMLError, text: str, file: str) -> JobProblem:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        position = getattr(error, "position", 0)  # a ReaderError: a character that is not allowed
        before = text.encode()[:position].decode(errors="ignore")
        reason = getattr(error, "reason", "it cannot be read")
        return JobProblem(
            file=file,
            line=before.count("\n") + 1,
            column=len(before) - before.rfind("\n"),
            message=f"no valid YAML: {reason}",
        )
    what = " ".join(part for part in (error.context, error.problem) if part)
    at, began = error.problem_mark, error.context_mark
    if began is not None and not text[at.index :].strip():
        at = began  # what has no end: nothing is to be seen there
    elif began is not None and began.line != at.line:
        what += f"; it began in line {began.line + 1}"
    hints = [_explain_character(text, mark) for mark in (at, began) if mark]
    hint = next((hint for hint in hints if hint), None)
    return _problem(at, file, f"no valid YAML: {what}", hint)


def _explain_character(text: str, mark: yaml.Mark) -> str | None:
    """Return what helps against the character that YAML stumbled over."""
    lines = text.splitlines()
    character = lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
    if character == "\t":
        return "indent with spaces, not with tabs"
    if character and character in "@`%*&":
        return f"{_QUOTES}: YAML gives {character} a meaning of its own"
    return None


class _Reader:
    """Turns nodes into values, and collects marks and problems on the way."""

    def __init__(self, file: str) -> None:
        self.marks: dict[Key, Mark] = {}
        self.spellings: dict[Key, str] = {}
        self.problems: list[JobProblem] = []
        self._file = file

    def read(self, node: yaml.Node, key: Key) -> object:
        """Return the value of a node; where it has none, note a problem and return its text."""
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._read_mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return self._read_sequence(node, key)
        if isinstance(node, yaml.ScalarNode):
            return self._read_scalar(node, key)
        return self._refuse(node, key, f"expected no tag such as {node.tag}")

    def _read_mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, object]:
        values: dict[str, object] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                self._refuse(name_node, key, "expected a key that is text")
                continue
            # As written: `on` is a key, not true.
            name = name_node.value
            inner = (*key, name)
            if name in values:
                first = self.marks[inner].line
                self._refuse(name_node, inner, f"a second time: it is in line {first} already")
                continue
            self.marks[inner] = _mark(name_node, value_node)
            values[name] = self.read(value_node, inner)
        return values

    def _read_sequence(self, node: yaml.SequenceNode, key: Key) -> list[object]:
        values = []
        for index, item in enumerate(node.value):
            self.marks[(*key, index)] = _mark(item, item)
            values.append(self.read(item, (*key, index)))
        return values

    def _read_scalar(self, node: yaml.ScalarNode, key: Key) -> object:
        text = str(node.value)
        if node.tag == f"{_TAG}str":
            return text
        self.spellings[key] = text
        match node.tag.removeprefix(_TAG):
            case "bool":
                return text.lower() in _TRUE
            case "int" if re.fullmatch("[-+]?(0|[1-9][0-9]{0,18})", text):
                return int(text)
            case "float" if re.fullmatch(r"[-+]?[0-9]+\.[0-9]*", text):
                return float(text)
            case "null":
                return self._refuse(node, key, "empty", "give it a value, or leave the key out")
            case "int" | "float":
                how = "in base 60" if ":" in text else "other than it looks"
                return self._refuse(node, key, f"YAML reads it as a number {how}", _QUOTES)
            case "timestamp":
                return self._refuse(node, key, "YAML reads it as a date", _QUOTES)
            case _:
                return self._refuse(node, key, "expected no tag", _QUOTES)

    def _refuse(self, node: yaml.Node, key: Key, message: str, hint: str | None = None) -> object:
        name = format_key(key, "yaml") or None
        self.problems.append(_problem(node.start_mark, self._file, message, hint, name))
        return str(node.value)


def _mark(key: yaml.Node, value: yaml.Node) -> Mark:
    at, after = key.start_mark, value.start_mark
    return Mark(at.line + 1, at.column + 1, after.column + 1 if after.line == at.line else None)


def _problem(
    at: _Mark | None, file: str, message: str, hint: str | None = None, key: str | None = None
) -> JobProblem:
    line, column = (at.line + 1, at.column + 1) if at else (None, None)
    return JobProblem(file=file, line=line, column=column, key=key, message=message, hint=hint)
