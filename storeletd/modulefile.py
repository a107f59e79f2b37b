"""Python backup modules: the settings at their top, read without executing anything.

A setting is an assignment of a literal to its name in capitals, at the module's own level. What
a module does inside `if`, `try` or a function is its own business and is not seen; so are other
names, unless one can only be a misspelled setting.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pydantic import ValidationError

from storeletd.declaration import Declaration, Key, find_near
from storeletd.jobs import JobFileError, JobProblem
from storeletd.settings import MODULE_CONSTANTS, Settings

__all__ = ["read_module"]

_REALLY_NEAR = 0.85  # difflib's ratio: TIMEOUTS and SCHEDUEL are, CATCHUP_DAYS is not


def read_module(text: str, file: str) -> Declaration:
    """Read the settings of a module. Raises JobFileError where it is no Python at all."""
    reader = _Reader(file)
    for statement in _parse(text, file).body:
        for name, value in _assignments(statement):
            reader.read(name, value, statement.lineno)
    return Declaration(
        file=file,
        language="python",
        values=reader.values,
        lines=reader.lines,
        spellings={},
        problems=(*reader.problems, *reader.find_misspelled()),
    )


def _parse(text: str, file: str) -> ast.Module:
    try:
        return ast.parse(text, filename=file)
    except SyntaxError as error:
        problem = JobProblem(file=file, line=error.lineno, message=f"no valid Python: {error.msg}")
        raise JobFileError([problem]) from None  # it quotes the line, which may hold a secret
    except (ValueError, RecursionError, MemoryError) as error:  # NUL in it; nested too deeply
        problem = JobProblem(file=file, message="no valid Python: the parser gives up")
        raise JobFileError([problem]) from error


def _assignments(statement: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield each name that a statement assigns to, with the value if it has one for itself."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                whole = isinstance(target, ast.Name)
                for each in ast.walk(target):
                    if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                        yield each.id, value if whole else None
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            yield name, value
        case ast.AugAssign(target=ast.Name(id=name)):
            yield name, None


class _Reader:
    """Collects the settings, and what may have been meant as one."""

    def __init__(self, file: str) -> None:
        self.values: dict[str, object] = {}
        self.lines: dict[Key, int] = {}
        self.problems: list[JobProblem] = []
        self._file = file
        self._others: list[tuple[str, object, int]] = []  # literals: name, value, line

    def read(self, name: str, value: ast.expr | None, line: int) -> None:
        """Take an assignment."""
        setting = MODULE_CONSTANTS.get(name)
        try:
            literal = None if value is None else ast.literal_eval(value)
            is_literal = value is not None
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            literal, is_literal = None, False
        if setting is None:
            if is_literal:
                self._others.append((name, literal, line))
        elif setting in self.values:
            first = self.lines[(setting,)]
            self._refuse(name, line, f"a second time: it is in line {first} already")
        else:
            self.values[setting] = literal
            self.lines[(setting,)] = line
            if not is_literal:
                hint = "the daemon reads settings without running the module"
                self._refuse(name, line, "expected one assignment of a literal value", hint)

    def find_misspelled(self) -> list[JobProblem]:
        """Return a problem for each name that can only be a misspelled setting.

        A module may well have a constant LOG_FILE of its own, and a variable timeout: the name
        must be in capitals and really near, and the value good for the setting. Where the setting
        must be there and is not, a near name is enough.
        """
        problems = []
        for name, value, line in self._others:
            near = find_near(name.upper(), MODULE_CONSTANTS, cutoff=_REALLY_NEAR)
            if near is None or MODULE_CONSTANTS[near] in self.values:
                continue
            is_meant = name.isupper() and _is_good(MODULE_CONSTANTS[near], value)
            if is_meant or near == "SCHEDULE":
                message = f"unknown setting, did you mean {near}?"
                problems.append(JobProblem(file=self._file, line=line, key=name, message=message))
        return problems

    def _refuse(self, name: str, line: int, message: str, hint: str | None = None) -> None:
        self.problems.append(
            JobProblem(file=self._file, line=line, key=name, message=message, hint=hint)
        )


def _is_good(setting: str, value: object) -> bool:
    try:
        Settings.model_validate({"schedule": "manual", setting: value})
    except ValidationError:
        return False
    return True
