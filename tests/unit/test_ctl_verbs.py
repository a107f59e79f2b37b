"""The verbs that need no daemon, and wrong command lines: storeletctl as a process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from storeletd.schedule import local_timezone
from tests.helpers import CLONE
from tests.scripts import ctl

GOOD = """\
schedule: "30 2 * * *"
include: [{directory: /srv/www}]
save: [{directory: /mnt/backups}]
"""
BROKEN = """\
schedule: "61 2 * * *"
include: [{directory: /srv/www}]
sav: [{directory: /mnt/backups}]
"""


def test_calendar_lists_the_due_times_of_an_expression() -> None:
    zone, after = "--timezone=Europe/London", "--after=2026-03-28T12:00Z"
    done = ctl("calendar", "30 2 * * 1-5", zone, after, "--count=5", "--json")
    assert json.loads(done.stdout) == [
        "2026-03-30T02:30:00+01:00",
        "2026-03-31T02:30:00+01:00",
        "2026-04-01T02:30:00+01:00",
        "2026-04-02T02:30:00+01:00",
        "2026-04-03T02:30:00+01:00",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_calendar_shows_people_the_zone_it_reckons_in() -> None:
    done = ctl("calendar", "30 2 * * *", "--after=2026-06-01T02:29", "--count=2")
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "DUE",
        "Mon 2026-06-01 02:30 CEST",
        "Tue 2026-06-02 02:30 CEST",
    ]


def test_calendar_of_manual_is_empty() -> None:
    assert json.loads(ctl("calendar", "manual", "--json").stdout) == []
    assert "has no due times" in ctl("calendar", "manual").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["calendar", "61 2 * * *"],
        ["calendar", "@daily", "--timezone", "Europe/Nowhere"],
        ["calendar", "@daily", "--timezone", "../../etc/passwd"],
        ["calendar", "@daily", "--timezone", "Europe"],
        ["calendar", "@daily", "--after", "yesterday"],
        ["calendar", "@daily", "--count", "0"],
        ["calendar", "@daily", "--count", "99999999999999999999"],
        ["next", "--count", "99999999999999999999"],
        ["history", "--limit", "99999999999999999999"],
        ["history", "--run", "99999999999999999999"],
        ["logs", "website", "-n", "99999999999999999999"],
        ["logs", "website", "--run", "99999999999999999999"],
        ["calendar"],
        ["run-now"],
        ["no-such-verb"],
        ["list", "--no-such-option"],
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_where_help_is(arguments: list[str]) -> None:
    done = ctl(*arguments)
    error, hint = done.stderr.splitlines()
    assert done.returncode == 2
    assert error.startswith("Error: ")
    assert hint.startswith("Try: storeletctl")
    assert hint.endswith(" --help")
    assert done.stdout == ""


@pytest.mark.parametrize("verb", ["status", "show", "run-now", "cancel", "history", "logs", "next"])
@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_a_wrong_command_line(verb: str, name: str) -> None:
    done = ctl(verb, name)
    assert done.returncode == 2
    assert "the name is empty: is a variable of the shell not set?" in done.stderr
    assert f"Try: storeletctl {verb} --help" in done.stderr


def test_no_verb_is_a_wrong_command_line_that_prints_the_help(tmp_path: Path) -> None:
    done = ctl()
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == ctl("--help").stdout
    assert ctl("--socket", str(tmp_path / "s")).returncode == 2


def test_an_error_as_json_is_one_document_on_standard_error() -> None:
    done = ctl("calendar", "61 2 * * *", "--json")
    assert done.stdout == ""
    error = json.loads(done.stderr)
    assert error.keys() == {"error", "hint", "exit_code"}
    assert error["exit_code"] == done.returncode == 2


def test_a_followed_log_is_no_json_document() -> None:
    done = ctl("logs", "website", "--follow", "--json")
    assert done.returncode == json.loads(done.stderr)["exit_code"] == 2


def test_no_daemon_is_69_with_what_to_do(tmp_path: Path) -> None:
    done = ctl("list", STORELET_SOCKET=str(tmp_path / "s"))
    assert done.returncode == 69
    assert f"not reachable at {tmp_path}/s" in done.stderr
    assert "Try: systemctl status storeletd" in done.stderr


def test_the_socket_is_looked_for_in_the_runtime_directory(tmp_path: Path) -> None:
    assert "/run/storelet/storeletd.sock" in ctl("list").stderr
    done = ctl("list", RUNTIME_DIRECTORY=f"{tmp_path}:/run/other")
    assert f"{tmp_path}/storeletd.sock" in done.stderr
    done = ctl("--socket", "/given", "list", RUNTIME_DIRECTORY="/x", STORELET_SOCKET="/y")
    assert "not reachable at /given" in done.stderr


def test_next_reckons_in_the_machines_zone_where_that_has_no_name(tmp_path: Path) -> None:
    machine = local_timezone({})
    job = {"name": "a", "schedule": ["@daily"], "timezone": "localtime", "paused": False}
    places = {"STORELET_SOCKET": str(tmp_path / "s"), "PYTHONTZPATH": ""}
    with answer_once(tmp_path / "s", {"jobs": [job]}):
        # The daemon would have the zone of TZ if it had one.
        done = ctl("next", "--json", TZ="Asia/Kathmandu", **places)
    (due,) = [datetime.fromisoformat(each["due"]) for each in json.loads(done.stdout)]
    assert due.astimezone(machine).strftime("%H:%M") == "00:00"


def test_next_says_which_job_has_a_zone_that_is_not_known(tmp_path: Path) -> None:
    job = {"name": "a", "schedule": ["@daily"], "timezone": "Europe/Atlantis", "paused": False}
    with answer_once(tmp_path / "s", {"jobs": [job]}):
        done = ctl("next", STORELET_SOCKET=str(tmp_path / "s"))
    assert done.returncode == 1
    assert "job a has a time zone that is not known here: Europe/Atlantis" in done.stderr


@contextmanager
def answer_once(path: Path, document: object) -> Iterator[None]:
    """Answer a request as the daemon would: what it says here, not every machine makes it say."""
    body = json.dumps(document).encode()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                connection.sendall(body)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield
        thread.join(10)


def test_validate_says_which_files_are_good(tmp_path: Path) -> None:
    good = tmp_path / "website.yaml"
    good.write_text(GOOD)
    done = ctl("validate", str(good))
    assert done.stdout == f"{good}: ok\n"
    assert done.returncode == 0
    done = ctl("validate", str(good), "--json")
    assert json.loads(done.stdout) == {
        "jobs": [{"name": "website", "path": str(good)}],
        "problems": [],
    }


def test_validate_prints_every_problem_and_ends_with_78(tmp_path: Path) -> None:
    broken, missing = tmp_path / "broken.yaml", tmp_path / "missing.yaml"
    broken.write_text(BROKEN)
    done = ctl("validate", str(broken), str(missing))
    assert done.returncode == 78
    assert done.stdout.splitlines() == [
        f'{broken}:1:11: schedule: "61 2 * * *": minute "61": expected 0-59',
        '    1 | schedule: "61 2 * * *"',
        "      |           ^",
        '  Try: for example schedule: "30 2 * * *"',
        f"{broken}:3:1: sav: unknown key, did you mean save?",
        "    3 | sav: [{***: ***}]",
        "      | ^",
        f"{missing}: no such file",
    ]
    done = ctl("validate", str(broken), "--json")
    problems = json.loads(done.stdout)["problems"]
    assert done.returncode == 78
    places = [(each["line"], each["column"], each["key"]) for each in problems]
    assert places == [(1, 11, "schedule"), (3, 1, "sav")]
    assert all(each["file"] == str(broken) for each in problems)


def test_validate_checks_a_directory_as_the_daemon_would(job_dir: Path) -> None:
    (job_dir / "website.yaml").write_text(GOOD)
    (job_dir / "open.yaml").write_text(GOOD)
    (job_dir / "open.yaml").chmod(0o666)
    done = ctl("validate", "--jobs", str(job_dir))
    assert done.returncode == 78
    good, *problems = done.stdout.splitlines()
    assert good == f"{job_dir}/website.yaml: ok"
    assert problems[0].startswith(f"{job_dir}/open.yaml: ")


def test_validate_of_a_missing_directory_is_a_problem(tmp_path: Path) -> None:
    done = ctl("validate", "--jobs", str(tmp_path / "nowhere"))
    assert done.returncode == 78
    problem = f"{tmp_path}/nowhere: job directory cannot be read: no such file or directory\n"
    assert done.stdout == problem


def test_schema_is_the_json_schema_of_job_files() -> None:
    done = ctl("schema")
    assert done.returncode == 0
    assert {"schedule", "include", "save"} <= json.loads(done.stdout)["properties"].keys()


def test_a_full_disk_is_an_error_without_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "storeletd.ctl", "calendar", "@daily"],
            cwd=CLONE,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: standard output: No space left on device\n"


def test_where_nothing_can_be_written_nothing_is_done() -> None:
    command = [sys.executable, "-m", "storeletd.ctl", "calendar", "@daily"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command],
        cwd=CLONE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: standard output is closed\n")


def test_help_lists_the_verbs_and_the_exit_codes() -> None:
    done = ctl("--help", COLUMNS="80")
    assert done.returncode == 0
    for word in ("run-now", "calendar", "69  the daemon is not reachable", "STORELET_SOCKET"):
        assert word in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "..." not in done.stdout.partition("Commands:")[2]  # each verb in one whole line


def test_version_is_that_of_the_package() -> None:
    assert ctl("--version").stdout.startswith("storeletctl 1.")


def test_a_verb_without_need_for_them_imports_neither_rich_nor_pydantic(tmp_path: Path) -> None:
    code = (
        "import sys; from storeletd.ctl import main\n"
        "try: main(['list'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CLONE,
        env={"STORELET_SOCKET": str(tmp_path / "s")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "click" in loaded
    assert not loaded & {"rich", "pydantic", "cronsim", "yaml", "boto3", "storelet"}
