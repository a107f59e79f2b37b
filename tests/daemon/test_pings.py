"""A check hears of each backup; by a real HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.answering import answering
from tests.daemon.test_daemon import finished, run, started, write_job, write_sleeper, write_yaml
from tests.daemon.test_time import finished as all_finished
from tests.helpers import Daemon

PLACE = "/a-secret-path"


class Check:
    """A server that hears pings; some of the next it may refuse."""

    def __init__(self) -> None:
        self.pings: list[tuple[str, str, str]] = []  # what, run, body
        self.refusals: list[int] = []
        check = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                url = urlsplit(self.path)
                (rid,) = parse_qs(url.query)["rid"]
                assert url.path.startswith(PLACE)
                check.pings.append((url.path.removeprefix(PLACE), rid, body))
                self.send_response(check.refusals.pop(0) if check.refusals else 200)
                self.end_headers()

        self.handler = Handler
        self.place = ""  # HOST:PORT, while it is served

    @property
    def setting(self) -> str:
        return f"healthchecks: http://{self.place}{PLACE}\n"

    def heard(self) -> list[str]:
        return [what for what, _, _ in self.pings]


@pytest.fixture
def check() -> Iterator[Check]:
    check = Check()
    with answering(check.handler) as check.place:
        yield check


def test_a_success_is_heard_from_its_start_to_its_end(
    daemon: Daemon, check: Check, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, check.setting)
    assert run(daemon, "web")["outcome"] == "success"
    assert run(daemon, "web")["outcome"] == "success"
    assert check.heard() == ["/start", "", "/start", ""]
    (first, also_first, second, also_second) = (rid for _, rid, _ in check.pings)
    assert (first, second) == (also_first, also_second)
    assert first != second
    assert PLACE not in daemon.log() + daemon.ctl("show", "web").stdout


def test_a_failure_is_heard_with_the_end_of_its_log(
    daemon: Daemon, check: Check, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination, check.setting)
    made = "- new_dir: made\n  run: seq 100000 100199; exit 9\n"
    path.write_text(path.read_text().replace("save:", f"{made}save:"))
    daemon.ctl("reload")
    done = run(daemon, "web")
    assert check.heard() == ["/start", "/fail"]
    body = check.pings[1][2]
    assert body.startswith(f"failed: {done['message']}\n\n")
    assert "\n100198\n100199" in body


def test_what_is_heard_of_a_long_log_is_its_end(daemon: Daemon, check: Check) -> None:
    url = check.setting.partition(": ")[2].strip()
    code = "print('é' * 8000, flush=True)\nraise SystemExit('the last word')\n"
    write_job(daemon, "web.py", f'SCHEDULE = "manual"\nHEALTHCHECKS = "{url}"\n{code}')
    run(daemon, "web")
    body = check.pings[1][2]
    assert 9_000 < len(body.encode()) <= 10_000
    assert body.endswith("the last word")


def test_what_is_not_heard_is_said_again_and_only_noted(
    daemon: Daemon, check: Check, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, check.setting)
    check.refusals = [503, 503, 503]
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    assert check.heard() == ["/start", "", "", ""]
    assert "healthchecks: not told of start: the answer is 503" in done["notes"]
    assert not [note for note in done["notes"] if "of success" in note]
    check.refusals = [404, 404]
    check.pings.clear()
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    assert check.heard() == ["/start", ""]
    assert "healthchecks: not told of success: the answer is 404" in done["notes"]


def test_where_nothing_listens_the_backup_is_made(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, f"healthchecks: http://127.0.0.1:9{PLACE}\n")
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    assert sum("healthchecks: not told of" in note for note in done["notes"]) == 2
    assert PLACE not in daemon.log()


def test_what_is_skipped_or_cancelled_has_no_end_to_be_heard(
    daemon: Daemon, check: Check, tree: Path, destination: Path, tmp_path: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, f"{check.setting}before: exit 75\n")
    assert run(daemon, "web")["outcome"] == "skipped"
    assert check.heard() == []
    url = check.setting.partition(": ")[2].strip()
    mark = tmp_path / "mark"
    write_sleeper(daemon, "other", mark, f'HEALTHCHECKS = "{url}"')
    run_id = started(daemon, "other", mark)
    daemon.request("POST", f"/runs/{run_id}/cancel")
    assert finished(daemon, run_id)["outcome"] == "cancelled"
    assert check.heard() == ["/start"]


def test_a_run_that_was_killed_is_heard_of(daemon: Daemon, check: Check) -> None:
    url = check.setting.partition(": ")[2].strip()
    code = "import os\nos.kill(os.getpid(), 9)\n"
    write_job(daemon, "web.py", f'SCHEDULE = "manual"\nHEALTHCHECKS = "{url}"\n{code}')
    run(daemon, "web")
    assert check.heard() == ["/start", "/fail"]
    assert check.pings[1][2].startswith("failed: it was ended by signal 9")


def test_a_verification_is_no_backup(
    daemon: Daemon, check: Check, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, f"{check.setting}verify: {{every: 1w}}\n")
    run(daemon, "web")
    assert all_finished(daemon, 2)[1]["outcome"] == "success"
    assert check.heard() == ["/start", ""]


def test_a_secret_holds_the_url_and_a_wrong_one_is_named(
    daemon: Daemon, check: Check, tree: Path, destination: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(check.setting.partition(": ")[2])
    write_yaml(daemon, "web", tree, destination, f"healthchecks: {{file: {secret}}}\n")
    assert run(daemon, "web")["outcome"] == "success"
    assert check.heard() == ["/start", ""]
    secret.write_text("file:///etc/passwd")
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    assert "healthchecks: expected a URL that begins with http:// or https://" in done["notes"]
    path = write_yaml(daemon, "web", tree, destination, "healthchecks: ftp://secret\n")
    said = daemon.ctl("validate", str(path), check=False)
    assert said.returncode == 78
    assert "healthchecks: expected a URL" in said.stdout + said.stderr
