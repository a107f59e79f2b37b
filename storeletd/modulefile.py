"""Python backup modules: the settings at their top, read without executing anything.

A setting is an assignment of a literal to its name in capitals, at the module's own level. What
a module does inside `if`, `try` or a function is its own business and is not seen; so are other
names, unless one can only be a misspelled setting.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pydantic import ValidationError

from storeletd.declaration import Declaration, Key, Mark, find_near
from storeletd.jobs import JobFileError, JobProblem
from storeletd.settings import MODULE_CONSTANTS, Settings

__all__ = ["Columns", "find_assignments", "parse_module", "read_module"]

_REALLY_NEAR = 0.85  # difflib's ratio: TIMEOUTS and SCHEDUEL are, CATCHUP_DAYS is not


def read_module(text: str, file: str) -> Declaration:
    """Read the settings of a module. Raises JobFileError where it is no Python at all."""
    reader = _Reader(file, text)
    for statement in parse_module(text, file).body:
        for name, value in find_assignments(statement):
            reader.read(name, value)
    return Declaration(
        file=file,
        language="python",
        values=reader.values,
        marks=reader.marks,
        spellings={},
        problems=(*reader.problems, *reader.find_misspelled()),
    )


def parse_module(text: str, file: str) -> ast.Module:
    """Return the syntax of a module. Raises JobFileError."""
    try:
        return ast.parse(text, filename=file)
    except SyntaxError as error:
        problem = JobProblem(
            file=file,
            line=error.lineno,
            column=error.offset or None,  # 0 and None: of the file as a whole
            message=f"no valid Python: {error.msg}",
        )
        raise JobFileError([problem]) from None  # it quotes the line, which may hold a secret
    except (ValueError, RecursionError, MemoryError) as error:  # NUL in it; nested too deeply
        problem = JobProblem(file=file, message="no valid Python: the parser gives up")
        raise JobFileError([problem]) from error


def find_assignments(statement: ast.stmt) -> Iterator[tuple[ast.Name, ast.expr | None]]:
    """Yield each name that a statement assigns to, with the value if it has one for itself."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                whole = isinstance(target, ast.Name)
                for each in ast.walk(target):
                    if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                        yield each, value if whole else None
        case ast.AnnAssign(target=ast.Name() as name, value=value) if value is not None:
            yield name, value
        case ast.AugAssign(target=ast.Name() as name):
            yield name, None


class Columns:
    """Columns in characters, from 1, where ast counts bytes."""

    def __init__(self, text: str) -> None:
        self._lines = text.encode().splitlines()  # as Python has lines
        self._last = (1, 0, 1)  # line, bytes before, column: counted on from there, all is linear

    def of(self, line: int, offset: int) -> int:
        """Return the column of what begins (or ends) `offset` bytes after a line's begin."""
        last_line, before, column = self._last
        if line != last_line or offset < before:
            before, column = 0, 1
        column += len(self._lines[line - 1][before:offset].decode())
        self._last = (line, offset, column)
        return column


class _Reader:
    """Collects the settings, and what may have been meant as one."""

    def __init__(self, file: str, text: str) -> None:
        self.values: dict[str, object] = {}
        self.marks: dict[Key, Mark] = {}
        self.problems: list[JobProblem] = []
        self._file = file
        self._columns = Columns(text)
        self._others: list[tuple[ast.Name, object]] = []  # and their values, which are literals

    def read(self, name: ast.Name, value: ast.expr | None) -> None:
        """Take an assignment."""
        setting = MODULE_CONSTANTS.get(name.id)
        try:
            literal = None if value is None else ast.literal_eval(value)
            is_literal = value is not None
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            literal, is_literal = None, False
        if setting is None:
            if is_literal:
                self._others.append((name, literal))
        elif setting in self.values:
            first = self.marks[(setting,)].line
            self._refuse(name, name, f"a second time: it is in line {first} already")
        else:
            self.values[setting] = literal
            self._mark((setting,), name, value)
            if not is_literal:
                hint = "the daemon reads settings without running the module"
                message = "expected one assignment of a literal value"
                self._refuse(name, value or name, message, hint)

    def _mark(self, key: Key, name: ast.expr, value: ast.expr | None) -> None:
        """Note where a setting stands, and all that is in its value."""
        column = self._column(name)
        in_line = value is not None and value.lineno == name.lineno
        self.marks[key] = Mark(
            name.lineno, column, self._column(value) if value and in_line else None
        )
        match value:
            case ast.Dict(keys=names, values=values):
                for inner, each in zip(names, values, strict=True):
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        self._mark((*key, inner.value), inner, each)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                for index, item in enumerate(items):
                    self._mark((*key, index), item, item)

    def _column(self, at: ast.expr) -> int:
        return self._columns.of(at.lineno, at.col_offset)

    def find_misspelled(self) -> list[JobProblem]:
        """Return a problem for each name that can only be a misspelled setting.

        A module may well have a constant LOG_FILE of its own, and a variable timeout: the name
        must be in capitals and really near, and the value good for the setting. Where the setting
        must be there and is not, a near name is enough.
        """
        problems = []
        for name, value in self._others:
            near = find_near(name.id.upper(), MODULE_CONSTANTS, cutoff=_REALLY_NEAR)
            if near is None or MODULE_CONSTANTS[near] in self.values:
                continue
            is_meant = name.id.isupper() and _is_good(MODULE_CONSTANTS[near], value)
            if is_meant or near == "SCHEDULE":
                problems.append(self._problem(name, name, f"unknown setting, did you mean {near}?"))
        return problems

    def _refuse(self, name: ast.Name, at: ast.expr, message: str, hint: str | None = None) -> None:
        self.problems.append(self._problem(name, at, message, hint))

    def _problem(
        self, name: ast.Name, at: ast.expr, message: str, hint: str | None = None
    ) -> JobProblem:
        """Make a problem with a name; its line is the name's, its column that of `at` in it."""
        at = at if at.lineno == name.lineno else name
        return JobProblem(
            file=self._file,
            line=name.lineno,
            column=self._column(at),
            key=name.id,
            message=message,
            hint=hint,
        )


def _is_good(setting: str, value: object) -> bool:
    try:
        Settings.model_validate({"schedule": "manual", setting: value})
    except ValidationError:
        return False
    return True
