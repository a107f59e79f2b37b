"""The wheel and the sdist: complete, correct, and of use where nothing else of ours is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers import CLONE, make_once


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it."""

    def build(directory: Path) -> None:
        run(sys.executable, "-m", "build", "--outdir", directory, CLONE, cwd=directory)

    return make_once(tmp_path_factory, "distributions", build)


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    return next(distributions.glob("*.whl"))


class Installation:
    """A virtual environment with nothing but what pip puts there."""

    def __init__(self, directory: Path) -> None:
        self._bin = directory / "bin"
        self._directory = directory
        venv.create(directory, symlinks=True)

    def install(self, requirement: str) -> None:
        # Of this Python's pip: one of its own takes longer to install than all the rest.
        pip = (sys.executable, "-m", "pip", "--python", self.path("python"))
        run(*pip, "install", "--quiet", "--no-compile", requirement, cwd=self._directory)

    def path(self, program: str) -> Path:
        return self._bin / program

    def run(self, program: str, *arguments: str, check: bool = True) -> str:
        done = run(self.path(program), *arguments, cwd=self._directory, check=check)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def library(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    installation = Installation(tmp_path_factory.mktemp("library"))
    installation.install(str(wheel))
    return installation


@pytest.fixture(scope="module")
def daemon(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    installation = Installation(tmp_path_factory.mktemp("daemon"))
    installation.install(f"{wheel}[daemon]")
    return installation


def test_twine_is_content_and_the_manual_is_their_description(distributions: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir(), cwd=CLONE)


def test_wheel_has_both_packages_and_their_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"storelet", "storeletd"}
    assert {"storelet/py.typed", "storeletd/py.typed"} <= {*names}
    assert [name for name in names if name.endswith("/licenses/LICENSE")]
    modules = {name for name in names if name.endswith(".py")}
    here = {
        str(path.relative_to(CLONE))
        for package in ("storelet", "storeletd")
        for path in (CLONE / package).rglob("*.py")
    }
    assert modules == here


def test_sdist_has_what_packages_are_made_from(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    for name in ("LICENSE", "README.rst", "CHANGELOG.rst", "dev", "packaging/manpages.py"):
        assert name in names
    assert {"packaging/systemd/storeletd.service", "tests/conftest.py"} <= names
    assert not {name for name in names if name.startswith((".venv", ".demo", ".git/"))}


def test_library_alone_makes_a_backup(library: Installation, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"kept")
    (tmp_path / "archives").mkdir()
    script = """
        import sys, storelet
        with storelet.ZipBackup("example", destination=storelet.Directory(sys.argv[2])) as backup:
            backup.include_directory(sys.argv[1])
    """
    paths = [str(tmp_path / name) for name in ("tree", "archives")]
    library.run("python", "-c", textwrap.dedent(script), *paths)
    (archive,) = (tmp_path / "archives").glob("example_*.zip")
    with zipfile.ZipFile(archive) as opened:
        assert [opened.read(name) for name in opened.namelist() if name.endswith("file")] == [
            b"kept"
        ]


@pytest.mark.parametrize("program", ["storeletd", "storeletctl"])
def test_command_says_what_to_install_where_its_packages_are_missing(
    library: Installation, program: str
) -> None:
    lines = library.run(program, "--help", check=False).splitlines()
    assert lines[0].endswith(" is not installed")
    assert lines[1:] == ["Try: pip install 'storelet[daemon]'"]


@pytest.mark.parametrize("program", ["storeletd", "storeletctl"])
def test_command_starts_where_its_packages_are_installed(
    daemon: Installation, program: str
) -> None:
    version = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["version"]
    assert daemon.run(program, "--version") == f"{program} {version}\n"
    assert daemon.run(program, "--help").lower().startswith(f"usage: {program}")


def test_daemon_and_command_line_work_together(daemon: Installation, tmp_path: Path) -> None:
    for name in ("tree", "jobs", "archives"):
        (tmp_path / name).mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"kept")
    job = tmp_path / "jobs" / "example.yaml"
    job.write_text(
        f"schedule: manual\ninclude: [{{directory: {tmp_path}/tree}}]\n"
        f"save: [{{directory: {tmp_path}/archives}}]\n"
    )
    job.chmod(0o600)
    assert "success" in daemon.run("storeletctl", "run", str(job))
    assert len(list((tmp_path / "archives").glob("example_*.zip"))) == 1


def test_types_are_seen_from_outside(library: Installation, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import storelet

        with storelet.ZipBackup("example") as backup:
            backup.include_directory("/srv/www", preserve_paths=False)
            with backup.include_new_dir("database") as directory:
                print(directory.path)
            url: str = backup.save_to_s3("bucket")
            wrong: int = backup.save_to_s3(42)
        """)
    )
    environment = {**os.environ, "MYPYPATH": ""}
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file="]
    command += [f"--python-executable={library.path('python')}", str(script)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    kinds = sorted(error.rpartition("[")[2] for error in errors)
    assert kinds == ["arg-type]", "assignment]"], done.stdout + done.stderr
