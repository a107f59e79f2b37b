"""README.rst is the manual: its examples work, and nothing is missing from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree

import storelet
from storeletd.ctl.commands import storeletctl
from storeletd.history import EXIT_CODES
from storeletd.includes import INCLUDE_KINDS
from storeletd.jobfile import read_job
from storeletd.journal import MESSAGE_IDS
from storeletd.metrics import METRICS
from storeletd.saves import SAVE_KINDS
from storeletd.settings import MODULE_CONSTANTS, ChangeDetection, Encryption, YamlSettings
from tests.helpers import CLONE

README = (CLONE / "README.rst").read_text()
TREE = publish_doctree(README, settings_overrides={"halt_level": 2, "report_level": 2})


def examples(language: str) -> list[str]:
    return [
        block.astext()
        for block in TREE.findall(nodes.literal_block)
        if language in block["classes"]
    ]


def literals() -> set[str]:
    """Everything in the manual that is marked as code, in single words."""
    marked = [each.astext() for each in TREE.findall(nodes.literal)]
    marked += [each.astext() for each in TREE.findall(nodes.literal_block)]
    return set(re.findall(r"[\w@.*/-]+", "\n".join(marked)))


def test_every_chapter_is_in_its_list_of_contents() -> None:
    chapters = [each[0].astext() for each in TREE.children if isinstance(each, nodes.section)]
    contents = next(TREE.findall(nodes.bullet_list))
    listed = [next(each.findall(nodes.reference)).astext() for each in contents.children]
    assert listed == chapters


@pytest.mark.parametrize("text", examples("python"))
def test_python_examples_are_python(text: str) -> None:
    compile(text, "README.rst", "exec")


def jobs() -> list[tuple[str, str]]:
    yaml = [("website.yaml", text) for text in examples("yaml")]
    return yaml + [("photos.py", text) for text in examples("python") if "SCHEDULE" in text]


@pytest.mark.parametrize(("name", "text"), jobs())
def test_example_jobs_are_valid(job_dir: Path, name: str, text: str) -> None:
    path = job_dir / name
    path.write_text(text)
    path.chmod(0o600)
    assert read_job(path).name == path.stem


def test_both_kinds_of_jobs_are_shown() -> None:
    assert {name for name, _ in jobs()} == {"website.yaml", "photos.py"}


def test_every_setting_is_in_it() -> None:
    models = [YamlSettings, ChangeDetection, Encryption]
    models += [*INCLUDE_KINDS.values(), *SAVE_KINDS.values()]
    settings = {name for model in models for name in model.model_fields}
    assert (settings | set(MODULE_CONSTANTS)) - literals() == set()


def test_every_verb_and_its_options_are_in_it() -> None:
    assert set(storeletctl.commands) - literals() == set()
    parameters = [each for verb in storeletctl.commands.values() for each in verb.params]
    options = [each.opts for each in parameters if each.opts[0].startswith("-")]
    assert [each for each in options if not literals().intersection(each)] == []


def test_every_outcome_and_exit_code_is_in_it() -> None:
    assert EXIT_CODES.keys() - literals() == set()
    for outcome, code in EXIT_CODES.items():
        assert re.search(rf"^``{outcome}``\s+{code} ", README, re.MULTILINE), outcome
    codes = {0, *EXIT_CODES.values(), 2, 4, 11, 69, 77, 78, 130}
    codes |= {getattr(storelet, name).exit_code for name in storelet.__all__ if "Error" in name}
    table = README.partition("Exit codes\n")[2]
    assert codes == {int(code) for code in re.findall(r"^(\d+) +\S", table, re.MULTILINE)}


def test_every_message_id_is_in_it() -> None:
    assert [each for each in MESSAGE_IDS.values() if each not in README] == []


def test_every_metric_is_in_it() -> None:
    assert METRICS.keys() - literals() == set()


def test_paths_it_names_in_a_clone_exist() -> None:
    named = set(re.findall(r"packaging/[\w/.]+", README)) | {"dev", "CHANGELOG.rst"}
    assert [each for each in named if not (CLONE / each).exists()] == []
