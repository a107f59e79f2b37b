"""What is shown of a job file's lines: the place is right, and no secret is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from storeletd.includes import INCLUDE_KINDS
from storeletd.jobfile import read_job
from storeletd.jobs import JobFileError
from storeletd.masking import mask_file
from storeletd.saves import SAVE_KINDS
from storeletd.settings import YamlSettings
from storeletd.values import Command

SECRET = "hunter2"
REST = "include: [{file: /x}]\nsave: [{directory: /y}]\n"


def shown_of(path: Path, text: str) -> list[str]:
    """Return the line of each problem, with a caret put in where the problem is."""
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(JobFileError) as raised:
        read_job(path)
    file = mask_file(path)
    assert file is not None
    shown = []
    for problem in raised.value.problems:
        assert SECRET not in f"{problem} {problem.hint}"
        assert problem.line is not None
        assert problem.column is not None
        line, at = file.show(problem.line, problem.column)
        assert SECRET not in line
        shown.append(f"{line[:at]}^{line[at:]}")
    return shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("timeout: soon", "timeout: ^soon"),
        ("timeout: soon  # hunter2", "timeout: ^soon"),
        ("timeout:    # hunter2", "timeout:^"),
        ("timeoot: hunter2", "^timeoot: ***"),
        ("größe: 日本", "^größe: ***"),
        ('"timeout": "soon"', '"timeout": ^"soon"'),
        ("keep: {last: 0}", "keep: {last: ^0}"),
        ("notify: {urls: [hunter2], on: [日本, x]}", "notify: {urls: [***], on: [^日本, x]}"),
        ("environment: {A: 'hunter2', B: 7}", "environment: {A: ***, B: ^***}"),
        ("environment: {A: {hunter2: x}}", "environment: {A: ^{***: ***}}"),
        ("encryption: hunter2", "encryption: ^***"),
        ("encryption: {password: [hunter2]}", "encryption: {password: ^[***]}"),
        ("encryption: {password: {hunter2: x}}", "encryption: {password: ^{***: ***}}"),
        ("encryption: {password:hunter2}", "encryption: {***^}"),
        ("notify: https://hunter2", "notify: ^***"),
        ("healthchecks: hunter2", "healthchecks: ^***"),
        ("healthchecks: {credential: hunter2/x}", "healthchecks: ^{credential: ***}"),
        ("before: [hunter2, 7]", "before: [***, ^***]"),
        ("timeout: !hunter2 4h", "timeout: ^***"),
    ],
)
def test_what_may_be_a_secret_is_masked(tmp_path: Path, line: str, shown: str) -> None:
    text = f"schedule: '@daily'\n{REST}{line}\n"
    assert shown in shown_of(tmp_path / "website.yaml", text)


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ("s3: a/b", "  - s3: ^a/b"),
        ("{s3: b, access_key: hunter2}", "  - ^{s3: b, access_key: ***}"),
        ("{s3: b, endpoint_url: 'https://u:hunter2@x'}", "  - {s3: b, endpoint_url: ^***}"),
        ("{s3: b, upload: {ACL: 7}}", "  - {s3: b, upload: {ACL: ^7}}"),
        ("hunter2", "  - ^***"),
    ],
)
def test_what_may_be_a_secret_is_masked_in_items(tmp_path: Path, item: str, shown: str) -> None:
    text = f"schedule: '@daily'\ninclude: [{{file: /x}}]\nsave:\n  - {item}\n"
    assert shown in shown_of(tmp_path / "website.yaml", text)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("timeout: a: hunter2", "timeout: *^**"),
        ("timeout: hours: hunter2", "timeout: *****^*"),  # as far as the caret
        ("healthchecks: @hunter2", "healthchecks: ^***"),
        ("\tbefore: hunter2", "^\tbefore: ***"),
        ("before: &hunter2 hunter2", "before: ^***"),
        ('before: ["hunter2', "before: *^**"),
        ("- [hunter2", "^- ***"),
        ("hunter2", "^***"),
        ("before: hunter2 \udcfc", "before: ********^*"),  # a byte that is not UTF-8
    ],
)
def test_where_nobody_knows_what_is_what_all_values_are_masked(
    tmp_path: Path, line: str, shown: str
) -> None:
    text = f"schedule: '@daily'\n{REST}{line}\n"
    assert shown_of(tmp_path / "website.yaml", text) == [shown]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("TIMEOUT = 'soon'  # hunter2", "TIMEOUT = ^'soon'"),
        ("TIMEOOT = '4h'; password = 'hunter2'", "^TIMEOOT = ***; password = ***"),
        ("ENVIRONMENT = {'größe': 7, 'B': 'x'}", "ENVIRONMENT = {'größe': ^***, 'B': ***}"),
        ("ENVIRONMENT = {'two words': 7, 'B': 8}", "ENVIRONMENT = {***: ***, 'B': ^***}"),
        ("ENVIRONMENT = {\n  'A': 'hunter2', 'B': 7}", "  'A': ***, 'B': ^***}"),
        ("NOTIFY = {'urls': ['hunter2'], 'on': ['x']}", "NOTIFY = {'urls': [***], 'on': [^'x']}"),
        ("BEFORE = 'hunter2' + x", "BEFORE = ^***"),
        ("BEFORE = f'''\nhunter2'''", "BEFORE = ^***"),
        ("BEFORE: str = 7", "BEFORE: str = ^***"),
        ("BEFORE += 'hunter2'", "^***"),
        ("TIMEOUT, password = '4h', 'hunter2'", "^***"),
        ("HEALTHCHECKS = https://hunter2", "HEALTHCHECKS = *****^*"),
        ("save_to_s3('hunter2'))", "save_to_s3(**********^*"),
        ("'''hunter2\nHEALTHCHECKS = 'hunter2", "^***"),
        ("HEALTHCHECKS = 'hunter2", "HEALTHCHECKS = ^***"),
    ],
)
def test_what_may_be_a_secret_is_masked_in_modules(tmp_path: Path, line: str, shown: str) -> None:
    assert shown in shown_of(tmp_path / "photos.py", f"SCHEDULE = '@daily'\n{line}\n")


def parts_of(annotation: object) -> Iterator[object]:
    yield annotation
    for part in get_args(annotation):
        yield from parts_of(part)


def test_every_command_is_declared_as_what_secrets_may_be_in() -> None:
    shell, words = get_args(get_args(Command)[0])
    for model in (YamlSettings, *INCLUDE_KINDS.values(), *SAVE_KINDS.values()):
        for name, field in model.model_fields.items():
            if {shell, words} & set(parts_of(field.annotation)):
                assert not field.repr, f"{model.__name__}.{name}: repr=False"


def test_a_file_that_cannot_be_read_has_no_lines(tmp_path: Path) -> None:
    assert mask_file(tmp_path / "missing.yaml") is None
    assert mask_file(tmp_path / "no.suffix") is None
