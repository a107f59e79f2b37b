"""Logging as the README promises it: one call, standard output, its words."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

import storelet
from tests.helpers import Bucket
from tests.scripts import run_script

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[([A-Z]+)\]: (.*)$")


def test_the_defaults_are_those_of_the_readme() -> None:
    assert storelet.LOGGING_DEFAULTS == {
        "format": "%(asctime)s [%(levelname)s]: %(message)s",
        "level": logging.INFO,
    }


def test_importing_and_using_storelet_configures_nothing(tree: Path, tmp_path: Path) -> None:
    done = run_script(
        """
import logging, sys
before = {name: value for name, value in vars(logging).items() if name != "Logger"}
import storelet
def configured(name):
    logger = logging.getLogger(name)
    return logger.handlers, logger.level, logger.propagate, logger.disabled, logger.filters
with storelet.ZipBackup("example") as backup:
    backup.include_directory(sys.argv[1])
    backup.save_to_directory(sys.argv[2])
assert configured(None) == ([], logging.WARNING, True, False, [])
assert configured("storelet") == configured("storelet.files") == ([], 0, True, False, [])
""",
        tree,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("", "")


def logged(script: str, *arguments: str | Path) -> list[tuple[str, str]]:
    """Run a script and return what it wrote to standard output as (level, message)."""
    done = run_script(script, *arguments)
    assert done.stderr == ""
    found = [LINE.match(line) for line in done.stdout.splitlines()]
    assert all(found), done.stdout
    return [(match[1], match[2]) for match in found if match]


BACK_UP = """
import logging, storelet, sys
storelet.setup_logging({keywords})
with storelet.ZipBackup("example") as backup:
    backup.include_directory(sys.argv[1])
    backup.save_to_directory(sys.argv[2])
"""


def test_each_file_is_logged_to_standard_output_in_the_readmes_words(
    tree: Path, tmp_path: Path
) -> None:
    (kept := tmp_path / "kept").mkdir()
    *files, saved = logged(BACK_UP.format(keywords=""), tree, kept)
    names = ("dangling", "größe ✓/naïve.txt", "hello.txt", "link", "nothing", "random.bin")
    names += ("secret", "sub/deeper/file", "sub/script.sh")
    assert files == [("INFO", f"Added file {tree}/{name}") for name in names]
    (archive,) = kept.iterdir()
    size = archive.stat().st_size
    assert saved == ("INFO", f"Saved {archive.as_uri()} to directory {kept} ({size} bytes)")


def test_temporary_files_and_walking_are_logged_at_debug(tree: Path, tmp_path: Path) -> None:
    (kept := tmp_path / "kept").mkdir()
    lines = logged(BACK_UP.format(keywords="level=logging.DEBUG"), tree, kept)
    assert ("DEBUG", f"Walking {tree}") in lines
    assert any(level == "DEBUG" and "temporary archive" in message for level, message in lines)


def test_a_higher_level_leaves_warnings_alone(tree: Path, tmp_path: Path) -> None:
    (kept := tmp_path / "kept").mkdir()
    assert logged(BACK_UP.format(keywords="level=logging.WARNING"), tree, kept) == []


def test_a_save_to_s3_is_logged_with_the_buckets_name(
    tree: Path, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "storelet")
    with storelet.ZipBackup("example") as backup:
        backup.include_file(tree / "hello.txt")
        url = backup.save_to_s3(bucket.name, bucket.access_key, bucket.secret_key)
    size = len(bucket.read(url.removeprefix("s3://my-bucket/")))
    assert [record for record in caplog.record_tuples if record[0].startswith("storelet")] == [
        ("storelet.files", logging.INFO, f"Added file {tree}/hello.txt"),
        ("storelet", logging.INFO, f"Saved {url} to bucket my-bucket ({size} bytes)"),
    ]


@pytest.mark.parametrize(
    ("keywords", "pattern"),
    [
        ('format="At %(asctime)s, this happened: %(message)s"', r"At .*, this happened: hello"),
        ('datefmt="%Y"', r"\d{4} \[INFO\]: hello"),
        ('style="{", format="{levelname}|{message}"', r"INFO\|hello"),
        ("handlers=[logging.StreamHandler(sys.stdout)]", r".* \[INFO\]: hello"),
        ("stream=sys.stdout", r".* \[INFO\]: hello"),
    ],
)
def test_keywords_take_precedence(keywords: str, pattern: str) -> None:
    done = run_script(
        "import logging, storelet, sys\n"
        f"storelet.setup_logging({keywords})\n"
        'logging.getLogger("somebody").info("hello")\n'
    )
    assert re.fullmatch(pattern + "\n", done.stdout)
    assert done.stderr == ""


def test_a_file_takes_the_log_instead_of_standard_output(tmp_path: Path) -> None:
    done = run_script(
        "import logging, storelet, sys\n"
        'storelet.setup_logging(filename=sys.argv[1], encoding="utf-8")\n'
        'logging.getLogger("somebody").info("hällo")\n',
        tmp_path / "mybackups.log",
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert "[INFO]: hällo" in (tmp_path / "mybackups.log").read_text(encoding="utf-8")


def test_logging_that_is_set_up_already_is_left_alone_unless_forced() -> None:
    done = run_script(
        """
import logging, storelet, sys
logging.basicConfig(format="mine %(message)s", stream=sys.stdout, level=logging.INFO)
storelet.setup_logging()
logging.info("one")
storelet.setup_logging(force=True, format="theirs %(message)s")
logging.info("two")
"""
    )
    assert done.stdout.splitlines() == ["mine one", "theirs two"]


def test_the_defaults_are_not_changed_by_keywords() -> None:
    run_script(
        "import storelet\n"
        "before = dict(storelet.LOGGING_DEFAULTS)\n"
        'storelet.setup_logging(level=10, format="%(message)s")\n'
        "assert before == storelet.LOGGING_DEFAULTS\n"
    )


def test_any_file_name_is_logged_on_one_line_that_every_stream_takes(tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    (kept := tmp_path / "kept").mkdir()
    for name in (b"caf\xe9", b"two\nlines", b"\x1b[31mred", "ünïcode ✓".encode(), b"a\\nb"):
        open(os.path.join(os.fsencode(source), name), "wb").close()
    os.symlink("nowhere", source / "\x1b]0;title\x07")
    lines = logged(BACK_UP.format(keywords=""), source, kept)
    assert [message.removeprefix(f"Added file {source}/") for _, message in lines[:-1]] == [
        "\\x1b[31mred",
        "\\x1b]0;title\\x07",
        "a\\nb",
        "caf\\udce9",
        "two\\nlines",
        "ünïcode ✓",
    ]


def test_no_secret_is_logged_though_everything_is(tree: Path, s3_server: Bucket) -> None:
    done = run_script(
        """
import base64, logging, storelet, sys
storelet.setup_logging(level=logging.DEBUG)
with storelet.ZipBackup("example") as backup:
    backup.include_directory(sys.argv[1])
    key = base64.b64encode(b"k3y" + b"y" * 29).decode()
    for upload in {}, {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}:
        backup.save_to_s3(sys.argv[2], "AKIDAKID", "s3cr3ts3cr3t", endpoint_url=sys.argv[3],
                          region_name="us-east-1", aws_session_token="t0k3nt0k3n", upload=upload)
""",
        tree,
        s3_server.name,
        str(s3_server.endpoint),
    )
    assert "Walking" in done.stdout
    assert "Saved s3://" in done.stdout
    for secret in ("s3cr3t", "t0k3n", "k3y", "Signature", "azN5eXl5"):
        assert secret not in done.stdout + done.stderr


def test_botos_own_log_is_there_for_who_asks_for_it() -> None:
    run_script(
        """
import logging, storelet
logging.getLogger("botocore").setLevel(logging.DEBUG)
storelet.setup_logging(level=logging.DEBUG)
assert logging.getLogger("botocore.auth").isEnabledFor(logging.DEBUG)
"""
    )
    run_script(
        """
import logging, storelet
storelet.setup_logging(level=logging.WARNING)
assert not logging.getLogger("botocore.auth").isEnabledFor(logging.INFO)
"""
    )
