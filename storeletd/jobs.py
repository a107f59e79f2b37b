"""Jobs: what a job file declares, and what can be wrong with one.

A `Job` is all that the daemon and its workers know of a job. What settings there are is said in
`settings`; how a job is read from its file in `jobfile`, which is not needed to handle one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from storelet.errors import StoreletError
from storeletd.secrets import SecretReference
from storeletd.settings import (
    SAID_BY_CODE,
    SETTINGS_IN,
    Language,
    Settings,
    json_schema,
)

__all__ = ["Job", "JobFileError", "JobProblem", "Settings", "json_schema", "make_printable"]

# The value of what is called so is not shown, though nobody said that it is secret.
_SECRET_NAME = re.compile("pass|secret|token|key|credential|auth", re.IGNORECASE)
_COMMANDS = {"run", "before", "after", "on_failure"}
# What a shell takes for one word, with its quotes; or a comment. Possessive: it takes linear time.
_WORD = re.compile(
    r"""((?<![^\s;|&()])\#[^\n]*+
    | (?: \$\([^()]*\) | \$\{[^{}]*\} | \\.? | '[^']*'? | "(?:\\.|[^"\\])*"? | `[^`]*`?
        | [^\s'"\\`;|&<>()] )++)""",
    re.DOTALL | re.VERBOSE,
)
# `NAME=`, `Name: ` of an HTTP header, `"name":` of JSON
_ASSIGNMENT = re.compile(r"""(?<![\w.-])([\w.-]++)(?:["']?=|:\s|["']\s*:)\s*""")
_OPTION = re.compile(r"""["']?-(?!-?no-)([\w.-]++)["']?""")  # whose value is the next word
_URL_USER = re.compile(r"://[^/?#\s]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProblem:
    """Something wrong with a job file; its texts are free of control characters."""

    file: str
    line: int | None = None
    column: int | None = None  # characters, from 1; of the value where that is what is wrong
    key: str | None = None  # the setting: `include[1].directory`
    message: str
    hint: str | None = None

    def __post_init__(self) -> None:
        # A job file may hold anything, and what is said of it ends in logs and on terminals.
        for name in ("file", "key", "message", "hint"):
            text = getattr(self, name)
            if text is not None:
                object.__setattr__(self, name, make_printable(text))

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part is not None)


class JobFileError(StoreletError):
    """A job file that declares no job; `problems` are all that is wrong with it."""

    exit_code = 78  # EX_CONFIG of sysexits.h

    def __init__(self, problems: Sequence[JobProblem]) -> None:
        hint = problems[0].hint if len(problems) == 1 else None
        super().__init__("\n".join(map(str, problems)), hint=hint)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its file declares it."""

    name: str  # the file's stem
    path: str  # of the file, absolute
    language: Language
    settings: Settings
    source: str = field(repr=False)  # the file's text as it was checked; it may hold secrets
    lines: Mapping[str, int]  # where each setting stands that the file has

    def to_json(self) -> str:
        """Return the job for a worker: secrets stay references, plain ones are readable."""
        settings = self.settings.model_dump(
            mode="json", exclude_unset=True, context={"reveal": True}
        )
        return json.dumps(
            {
                "name": self.name,
                "path": self.path,
                "language": self.language,
                "settings": settings,
                "source": self.source,
                "lines": dict(self.lines),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        values = json.loads(text)
        model = SETTINGS_IN[values["language"]]
        return cls(**{**values, "settings": model.model_validate(values["settings"])})

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the value of each setting, plain secrets masked, and where it comes from.

        `from` is the file and line, or "default". In commands and variables that is masked which
        shows by a name to be secret, as in `--password=…`; no name shows that of `-p…`.
        """
        values = self.settings.model_dump(mode="json", exclude_none=True)
        values["environment"] = {
            name: _mask_variable(name, value) for name, value in values["environment"].items()
        }
        for has_command in (*values.get("include", ()), values):
            for name in _COMMANDS & has_command.keys():
                has_command[name] = _mask_command(has_command[name])
        names = [name for name in Settings.model_fields if self._has(name)]
        return {name: {"value": values.get(name), "from": self._origin(name)} for name in names}

    @property
    def environment_names(self) -> frozenset[str]:
        """The variables that `{env: NAME}` asks for: the worker must get them."""
        references = _find_references(self.settings)
        return frozenset(each.name for each in references if each.kind == "env")

    def _has(self, setting: str) -> bool:
        """Whether there is such a setting: a module's code says what it includes, and how."""
        return self.language == "yaml" or setting not in SAID_BY_CODE

    def _origin(self, setting: str) -> str:
        line = self.lines.get(setting)
        return "default" if line is None else f"{self.path}:{line}"


def _mask_variable(name: str, value: object) -> object:
    if not isinstance(value, str):  # a reference
        return value
    return "***" if _SECRET_NAME.search(name) else _mask_command(value)


def _mask_command(command: str | list[str]) -> str | list[str]:
    """Mask what a command says of secrets, a list of its words or a text for a shell."""
    if isinstance(command, list):
        return _mask_words(command)
    parts = _WORD.split(command)  # each second one is a word
    parts[1::2] = _mask_words(parts[1::2])
    return "".join(parts)


def _mask_words(words: Sequence[str]) -> list[str]:
    masked = []
    is_value = False  # of the option before it
    for word in words:
        is_value = is_value and not word.startswith("-")
        masked.append("***" if is_value else _mask_word(word))
        option = None if is_value else _OPTION.fullmatch(word)
        is_value = option is not None and _SECRET_NAME.search(option[1]) is not None
    return masked


def _mask_word(word: str) -> str:
    """Mask all that follows the first secret name: a value may have blanks and quotes in it."""
    for found in _ASSIGNMENT.finditer(word):
        if _SECRET_NAME.search(found[1]):
            word = f"{word[: found.end()]}***"
            break
    return _URL_USER.sub("://***@", word)


def _find_references(value: object) -> Iterator[SecretReference]:
    match value:
        case SecretReference():
            yield value
        case BaseModel():
            for _name, each in value:
                yield from _find_references(each)
        case tuple():
            for each in value:
                yield from _find_references(each)
        case dict():
            for each in value.values():
                yield from _find_references(each)


def make_printable(text: str) -> str:
    """Return text that steers no terminal and no log: one line of printable characters."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
