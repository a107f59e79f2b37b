"""The examples of the original storelet's README, as scripts, on every Python we promise.

They stand here word for word; only the directories of its author's machine are replaced. Each
runs as a file of its own, without a `__main__` guard. Interpreters are found on the PATH as
python3.11 and so on, or named in STORELET_TEST_PYTHONS, separated by colons.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import CLONE, Bucket, MotoServer
from tests.zipparser import ParsedZip, parse_zip

VERSIONS = ["3.11", "3.12", "3.13"]
# Read before the fixtures clear the environment.
NAMED = [path for path in os.environ.get("STORELET_TEST_PYTHONS", "").split(os.pathsep) if path]
NEEDED = "import boto3, deflate, isal.isal_zlib, pathspec, zlib_ng.zlib_ng"

GETTING_STARTED = """\
import storelet

with storelet.ZipBackup("example") as backup:
    backup.include_directory("/home/mark/some/directory")
    backup.include_directory("/some/other/directory")
    
    backup.save_to_s3("my-bucket", "<access_key_goes_here>", "<secret_key_goes_here>")
"""  # noqa: W293 - word for word

CHANGED_BEHAVIOUR = """\
import storelet

with storelet.ZipBackup("example") as backup:
    {call}
    backup.save_to_s3("my-bucket", "<access_key_goes_here>", "<secret_key_goes_here>")
"""

PRESERVE_PATHS = """backup.include_directory("/home/mark/some/directory", preserve_paths=True)"""
NAME = """backup.include_directory("/home/mark/some/directory", name="my_special_directory")"""

NEW_DIRECTORY = """\
from subprocess import call
import storelet

with storelet.ZipBackup("example") as backup:
    with backup.include_new_dir("generated_directory") as d:
        call(["touch", "%s/touched.file" % d])
        # any commands or python code can generate files here

    backup.save_to_s3("my-bucket", "<access_key_goes_here>", "<secret_key_goes_here>")
"""

# What stands for "# Backup stuff here".
BACKUP_STUFF = """
with storelet.ZipBackup("example") as backup:
    backup.include_directory("/home/mark/some/directory")
    backup.save_to_directory("/kept")
"""


@cache
def find_python(version: str) -> tuple[str | None, str]:
    """Return an interpreter of a version that has what Storelet needs; else what is missing."""
    missing = f"no python{version} that answers on the PATH or in STORELET_TEST_PYTHONS"
    directories = os.environ.get("PATH", "").split(os.pathsep)
    found = [shutil.which(f"python{version}", path=directory) for directory in directories]
    for python in [sys.executable, *NAMED, *(each for each in found if each)]:
        said = subprocess.run([python, "--version"], capture_output=True, text=True)
        if said.returncode or not said.stdout.startswith(f"Python {version}."):
            continue  # such as a shim of pyenv for a version that is not in use
        said = subprocess.run([python, "-c", NEEDED], capture_output=True, text=True)
        if said.returncode == 0:
            return python, ""
        missing = f"{python}: {said.stderr.splitlines()[-1]}; pip install storelet there"
    return None, missing


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    """Take one interpreter after the other."""
    found, missing = find_python(request.param)
    if found is None:
        pytest.skip(missing)
    return found


class Scripts:
    """Runs the README's scripts as its reader would."""

    def __init__(self, python: str, top: Path, bucket: Bucket) -> None:
        self.places = {
            "/home/mark/some/directory": top / "some" / "directory",
            "/some/other/directory": top / "other" / "directory",
            "/kept": top / "kept",
        }
        for place in self.places.values():
            place.mkdir(parents=True)
        (self.places["/home/mark/some/directory"] / "file1").write_text("one\n")
        (self.places["/home/mark/some/directory"] / "subdirectory").mkdir()
        (self.places["/home/mark/some/directory"] / "subdirectory" / "file1").write_text("sub\n")
        (self.places["/some/other/directory"] / "file2").write_text("two\n")
        self.top = top
        self._python = python
        self._bucket = bucket

    def run(self, script: str) -> str:
        """Run a script; return what it wrote to standard output. It must not complain."""
        for place, path in self.places.items():
            script = script.replace(place, str(path))
        (self.top / "script.py").write_text(script)
        keys = {k: v for k, v in self._bucket.environment.items() if "KEY" not in k}
        done = subprocess.run(
            [self._python, "-W", "error", "script.py"],
            cwd=self.top,
            env={**os.environ, **keys, "PYTHONPATH": str(CLONE)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def saved(self) -> ParsedZip:
        """Return the one archive in the bucket, whose name must be the README's."""
        (key,) = self._bucket.keys()
        assert re.fullmatch(r"example_20\d{12}\.zip", key)
        return parse_zip(self._bucket.read(key))


@pytest.fixture
def scripts(python: str, tmp_path: Path, moto_server: MotoServer) -> Scripts:
    """Make the directories and the bucket of the README."""
    bucket = moto_server.make_bucket("my-bucket")
    for key in bucket.keys():  # noqa: SIM118 - not a dictionary
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    return Scripts(python, tmp_path, bucket)


def test_getting_started(scripts: Scripts) -> None:
    assert scripts.run(GETTING_STARTED) == ""
    assert scripts.saved().contents() == {
        "file1": b"one\n",
        "file2": b"two\n",
        "subdirectory/file1": b"sub\n",
    }


def test_changing_include_directory_behaviour(scripts: Scripts) -> None:
    calls = [
        PRESERVE_PATHS,
        NAME,
        PRESERVE_PATHS.replace("=True", '=True, name="both"'),
        NAME.replace("/home/mark/some", "/some/other"),  # the same name once more
    ]
    assert scripts.run(CHANGED_BEHAVIOUR.format(call="\n    ".join(calls))) == ""
    whole = str(scripts.places["/home/mark/some/directory"]).lstrip("/")
    assert scripts.saved().contents() == {
        f"{whole}/file1": b"one\n",
        f"{whole}/subdirectory/file1": b"sub\n",
        f"both/{whole}/file1": b"one\n",
        f"both/{whole}/subdirectory/file1": b"sub\n",
        "my_special_directory/file1": b"one\n",
        "my_special_directory/subdirectory/file1": b"sub\n",
        "my_special_directory/file2": b"two\n",
    }


def test_creating_new_directories(scripts: Scripts) -> None:
    assert scripts.run(NEW_DIRECTORY) == ""
    assert scripts.saved().contents() == {"generated_directory/touched.file": b""}


def test_logging_to_standard_output(scripts: Scripts) -> None:
    lines = scripts.run(f"import storelet\n\nstorelet.setup_logging()\n{BACKUP_STUFF}").splitlines()
    directory = scripts.places["/home/mark/some/directory"]
    stamp = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    for line, name in zip(lines, ("file1", "subdirectory/file1"), strict=False):
        assert re.fullmatch(rf"{stamp} \[INFO\]: Added file {directory}/{name}", line)
    assert len(lines) == 3


def test_logging_otherwise(scripts: Scripts) -> None:
    directory = scripts.places["/home/mark/some/directory"]
    own_format = scripts.run(
        "import storelet\n\n"
        "# Use your own format instead of the default\n"
        'storelet.setup_logging(format="At %(asctime)s, this happened: %(message)s")\n'
        + BACKUP_STUFF
    )
    assert re.match(rf"At .*, this happened: Added file {directory}/file1\n", own_format)
    to_file = scripts.run(
        "import storelet\n\n"
        "# Log to a file instead of the standard output\n"
        'storelet.setup_logging(filename="mybackups.log")\n' + BACKUP_STUFF
    )
    assert to_file == ""
    assert f"Added file {directory}/file1\n" in (scripts.top / "mybackups.log").read_text()
    verbose = scripts.run(
        "import storelet\nimport logging\n\nstorelet.setup_logging(level=logging.DEBUG)\n"
        + BACKUP_STUFF
    )
    assert f"[DEBUG]: Walking {directory}\n" in verbose


def test_logging_without_storelets_help_and_the_defaults(scripts: Scripts) -> None:
    written = scripts.run(
        """\
import storelet
import logging

logging.basicConfig(level=logging.INFO, 
                    format="At %(asctime)s, this happened: %(message)s",
                    filename="own.log")

storelet.LOGGING_DEFAULTS
# returns a dict: {'format': '%(asctime)s [%(levelname)s]: %(message)s', 'level': logging.INFO}
assert storelet.LOGGING_DEFAULTS == {'format': '%(asctime)s [%(levelname)s]: %(message)s', 'level': logging.INFO}
"""  # noqa: E501, W291 - word for word
        + BACKUP_STUFF
    )
    assert written == ""
    assert ", this happened: Added file " in (scripts.top / "own.log").read_text()


def test_many_files_without_a_main_guard(scripts: Scripts) -> None:
    """Helpers pack them on all cores, started anew and not forked from the script."""
    directory = scripts.places["/home/mark/some/directory"]
    for number in range(2_000):
        (directory / f"{number}").write_bytes(b"%d " % number * number)
    said = scripts.run("import storelet\n\nstorelet.setup_logging()\n" + BACKUP_STUFF)
    assert said.count("Added file") == 2_002
    (archive,) = scripts.places["/kept"].iterdir()
    contents = parse_zip(archive.read_bytes()).contents()
    assert all(contents[f"{number}"] == b"%d " % number * number for number in range(2_000))
