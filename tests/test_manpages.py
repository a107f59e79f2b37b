"""The manual pages say all that the commands and the manual do, and show well."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storeletd.__main__ import make_parser
from storeletd.ctl.commands import storeletctl
from storeletd.history import EXIT_CODES
from storeletd.metrics import METRICS
from storeletd.settings import YamlSettings
from tests.helpers import CLONE

PAGES = ["storelet.d.5", "storeletctl.1", "storeletd.8"]
COLUMNS = 80


def need(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    command = [sys.executable, CLONE / "packaging" / "manpages.py", directory]
    subprocess.run(command, check=True, timeout=60)
    assert sorted(path.name for path in directory.iterdir()) == PAGES
    return directory


def show(page: Path) -> str:
    """Return a page as a terminal shows it."""
    environment = {"PATH": "/usr/bin:/bin", "MANWIDTH": str(COLUMNS), "LANG": "C.UTF-8"}
    command = [need("man"), "--local-file", page]
    return subprocess.check_output(command, env=environment, text=True, timeout=60)


def terms(page: Path) -> list[str]:
    """List what a page explains."""
    lines = page.read_text().replace(r"\-", "-").replace(r"\fP", "").replace(r"\fB", "")
    return re.findall(r"^\.TP\n(?:\.B )?(.*)", lines, re.MULTILINE)


def test_page_of_storeletctl_has_every_verb_and_option(pages: Path) -> None:
    page = pages / "storeletctl.1"
    verbs = re.findall(r"^\.SS (.*)", page.read_text().replace(r"\-", "-"), re.MULTILINE)
    assert [*storeletctl.commands] == verbs
    explained = " ".join(terms(page)).replace(",", " ").split()
    parameters = [each for verb in storeletctl.commands.values() for each in verb.params]
    options = {name for each in parameters for name in each.opts if name.startswith("-")}
    assert options - set(explained) == set()


def test_page_of_storeletctl_has_every_exit_code(pages: Path) -> None:
    assert {str(code) for code in EXIT_CODES.values()} - set(
        terms(pages / "storeletctl.1")
    ) == set()


def test_page_of_storeletd_has_every_option(pages: Path) -> None:
    explained = " ".join(terms(pages / "storeletd.8")).replace(",", " ").split()
    options = {name for action in make_parser()._actions for name in action.option_strings}
    assert options - set(explained) == set()


def test_page_of_storeletd_has_every_outcome_and_metric(pages: Path) -> None:
    explained = " ".join(terms(pages / "storeletd.8")).replace(",", " ").split()
    assert (EXIT_CODES.keys() | METRICS.keys()) - set(explained) == set()


def test_page_of_job_files_has_every_setting(pages: Path) -> None:
    explained = " ".join(terms(pages / "storelet.d.5")).replace(",", " ").split()
    assert YamlSettings.model_fields.keys() - set(explained) == set()


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_terminal(pages: Path, name: str) -> None:
    known = (CLONE / "README.rst").read_text()
    known += "".join(f"{verb.epilog}" for verb in storeletctl.commands.values())
    long = [line.strip() for line in show(pages / name).splitlines() if len(line) > COLUMNS]
    # An example is not broken in two.
    assert [line for line in long if line not in known] == []


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_markup_left(pages: Path, name: str) -> None:
    shown = show(pages / name)
    assert "SYNOPSIS" in shown
    assert re.findall(r"``|`_|\.\. |\\f", shown) == []


@pytest.mark.parametrize("name", PAGES)
def test_man_and_mandoc_are_content(pages: Path, name: str) -> None:
    page = pages / name
    command = [need("man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [need("mandoc"), "-Tlint", "-Wwarning", page], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_page_is_found_by_what_it_is_for(pages: Path) -> None:
    for name in PAGES:
        said = subprocess.check_output([need("lexgrog"), pages / name], text=True, timeout=60)
        assert f'"{Path(name).stem} - ' in said
