"""Somebody is told, once, of what goes wrong, and that it is over; by a real webhook."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.answering import answering
from tests.clock import DAY, NIGHT, Clock
from tests.daemon.test_daemon import run, write_job, write_yaml
from tests.daemon.test_time import clock, finished, restart, runs, strike_three
from tests.daemon.test_verify import damage
from tests.helpers import Daemon, wait_for

__all__ = ["clock"]  # a fixture


class Webhook:
    """A server that takes letters, or refuses them."""

    def __init__(self) -> None:
        self.letters: list[dict[str, Any]] = []
        self.refused = 0
        self.refuses = False
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                letter = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if webhook.refuses:
                    webhook.refused += 1
                else:
                    webhook.letters.append(letter)
                self.send_response(503 if webhook.refuses else 200)
                self.end_headers()

        self.handler = Handler
        self.place = ""  # HOST:PORT, while it is served

    @property
    def url(self) -> str:
        return f"json://{self.place}/a-secret-path"

    def wait_for(self, count: int, daemon: Daemon) -> list[dict[str, Any]]:
        """Wait for so many letters, and until the daemon knows that they have arrived."""
        wait_for(lambda: len(self.letters) >= count, seconds=30, what=f"{count} letters")
        wait_for(lambda: daemon.log().count("Told: ") >= count, seconds=30, what="what was told")
        return self.letters

    def titles(self) -> list[str]:
        """Return what was told, without the host."""
        return [f"{e['title'].split()[0]} {e['title'].partition(': ')[2]}" for e in self.letters]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    with answering(webhook.handler) as webhook.place:
        yield webhook


def write(
    daemon: Daemon, webhook: Webhook, source: Path, destination: Path, more: str = ""
) -> Path:
    """Write a job that is due at three every night."""
    path = daemon.jobs / "web.yaml"
    path.write_text(
        f'schedule: "0 3 * * *"\n{more}notify: {{urls: ["{webhook.url}"]}}\n'
        f"include:\n- directory: {source}\nsave:\n- directory: {destination}\n"
    )
    path.chmod(0o600)
    daemon.ctl("reload")
    return path


def test_a_failure_is_told_once_and_its_end(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path, destination: Path
) -> None:
    source = tree.with_name("not-there")
    write(daemon, webhook, source, destination)
    strike_three(daemon, clock)
    finished(daemon, 1)
    (letter,) = webhook.wait_for(1, daemon)
    assert webhook.titles() == ["web failed"]
    assert letter["type"] == "failure"
    assert f"no such directory: {source}" in letter["message"]
    assert "Try: check the path" in letter["message"]
    assert "storeletctl history --run 1" in letter["message"]
    restart(daemon, clock, NIGHT + DAY + DAY / 2)
    finished(daemon, 2)
    tree.rename(source)
    restart(daemon, clock, NIGHT + 2 * DAY + DAY / 2)
    finished(daemon, 3)
    webhook.wait_for(2, daemon)
    restart(daemon, clock, NIGHT + 3 * DAY + DAY / 2)
    finished(daemon, 4)
    assert webhook.titles() == ["web failed", "web recovered"]
    assert webhook.letters[1]["type"] == "success"
    assert "a-secret-path" not in daemon.log()


def test_what_nobody_takes_is_told_later_also_by_the_next_daemon(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path, destination: Path
) -> None:
    webhook.refuses = True
    write(daemon, webhook, tree.with_name("not-there"), destination)
    strike_three(daemon, clock)
    (done,) = finished(daemon, 1)
    assert done["outcome"] == "failed"
    wait_for(lambda: "Nobody could be told of web yet" in daemon.log(), seconds=30, what="the log")
    refused = webhook.refused
    daemon.ctl("reload")
    time.sleep(2)
    assert webhook.refused == refused  # it is not tried all the time
    webhook.refuses = False
    clock.set(clock.now().replace(second=0) + DAY / 1440 * 2)
    daemon.ctl("reload")
    webhook.wait_for(1, daemon)
    assert webhook.titles() == ["web failed"]
    assert webhook.refused == refused
    webhook.refuses = True
    restart(daemon, clock, NIGHT + DAY)
    daemon.stop()
    tree.rename(tree.with_name("not-there"))
    clock.set(NIGHT + 2 * DAY)
    daemon.start()
    wait_for(lambda: webhook.refused > refused, seconds=30, what="a letter that is refused")
    daemon.stop()
    webhook.refuses = False
    daemon.start()
    webhook.wait_for(2, daemon)
    assert webhook.titles() == ["web failed", "web recovered"]


def test_who_started_a_run_by_hand_knows_how_it_ended(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path, destination: Path
) -> None:
    source = tree.with_name("not-there")
    write(daemon, webhook, source, destination)
    run(daemon, "web")
    time.sleep(2)
    assert webhook.letters == []
    strike_three(daemon, clock)
    finished(daemon, 2)
    webhook.wait_for(1, daemon)
    tree.rename(source)
    run(daemon, "web")
    webhook.wait_for(2, daemon)
    assert webhook.titles() == ["web failed", "web recovered"]


def test_a_run_that_is_skipped_ends_no_trouble(
    daemon: Daemon, clock: Clock, webhook: Webhook, tmp_path: Path
) -> None:
    status = tmp_path / "status"
    write_job(
        daemon,
        "web.py",
        f"""\
        SCHEDULE = "0 3 * * *"
        NOTIFY = {{"urls": ["{webhook.url}"]}}
        raise SystemExit(int(open({str(status)!r}).read()))
        """,
    )
    daemon.ctl("reload")
    for night, code in enumerate((9, 75, 9)):
        status.write_text(str(code))
        strike_three(daemon, clock, NIGHT + night * DAY)
        finished(daemon, night + 1)
        webhook.wait_for(1, daemon)
    time.sleep(2)
    assert webhook.titles() == ["web failed"]


def test_what_is_to_be_repeated_is_told_when_that_has_failed(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path
) -> None:
    path = write(daemon, webhook, tree, tree, "retries: 1\nretry_wait: 1s\n")
    where = "- s3: bucket\n  endpoint_url: http://127.0.0.1:9\n  access_key: key\n"
    where += "  secret_key: secret\n  region_name: us-east-1\n"
    path.write_text(
        path.read_text().replace(
            f"- directory: {tree}\nsave:\n- directory: {tree}\n",
            f"- directory: {tree}\nsave:\n{where}",
        )
    )
    daemon.ctl("reload")
    strike_three(daemon, clock)
    finished(daemon, 2, seconds=60)
    webhook.wait_for(1, daemon)
    time.sleep(1)
    assert webhook.titles() == ["web failed"]
    assert "history --run 2" in webhook.letters[0]["message"]


def test_a_verification_that_failed_and_archives_that_are_held_are_told(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path, destination: Path
) -> None:
    many = tree / "many"
    many.mkdir()
    for number in range(40):
        (many / f"file-{number:02}").write_bytes(bytes([number]) * 5_000)
    more = "compression: none\nkeep: {last: 1}\nverify: {every: 1w}\n"
    write(daemon, webhook, many, destination, more)
    run(daemon, "web")
    finished(daemon, 2)
    damage(destination, b"file-07")
    restart(daemon, clock, NIGHT.replace(hour=2) + 8 * DAY)
    webhook.wait_for(1, daemon)
    assert webhook.titles() == ["web verification failed"]
    assert "file-07" in webhook.letters[0]["message"]
    for path in list(many.iterdir())[:30]:
        path.unlink()
    run(daemon, "web")
    webhook.wait_for(3, daemon)
    assert set(webhook.titles()[1:]) == {"web held", "web recovered"}
    daemon.ctl("resume-prune", "web")
    webhook.wait_for(4, daemon)
    assert webhook.titles()[3] == "web recovered"


def test_overdue_and_missed_are_told(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path, destination: Path
) -> None:
    write(daemon, webhook, tree, destination, "max_age: 26h\ncatch_up: false\n")
    run(daemon, "web")
    clock.set(NIGHT + 3 * DAY)
    daemon.ctl("reload")
    webhook.wait_for(2, daemon)
    assert sorted(webhook.titles()) == ["web missed", "web overdue"]


def test_only_what_is_wanted_is_told(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path, destination: Path
) -> None:
    path = write(daemon, webhook, tree, destination, "max_age: 26h\ncatch_up: false\n")
    path.write_text(path.read_text().replace("notify: {", "notify: {on: [overdue], "))
    daemon.ctl("reload")
    run(daemon, "web")
    restart(daemon, clock, NIGHT + 3 * DAY)
    webhook.wait_for(1, daemon)
    run(daemon, "web")
    time.sleep(2)
    assert webhook.titles() == ["web overdue"]


def test_a_url_that_means_nothing_is_said_and_harms_no_other(
    daemon: Daemon, clock: Clock, webhook: Webhook, tree: Path, destination: Path
) -> None:
    path = write(daemon, webhook, tree.with_name("not-there"), destination)
    path.write_text(path.read_text().replace('urls: ["', 'urls: ["nonsense://a-password", "'))
    daemon.ctl("reload")
    strike_three(daemon, clock)
    webhook.wait_for(1, daemon)
    assert "notify.urls[0] is no URL that Apprise knows" in daemon.log()
    assert "a-password" not in daemon.log()
    shown = daemon.ctl("show", "web").stdout
    assert "a-password" not in shown
    assert "a-secret-path" not in shown


def test_a_python_module_says_it_as_a_constant(
    daemon: Daemon, clock: Clock, webhook: Webhook
) -> None:
    text = f'SCHEDULE = "0 3 * * *"\nNOTIFY = {{"urls": ["{webhook.url}"]}}\nraise SystemExit(9)\n'
    write_job(daemon, "web.py", text)
    daemon.ctl("reload")
    strike_three(daemon, clock)
    finished(daemon, 1)
    webhook.wait_for(1, daemon)
    assert webhook.titles() == ["web failed"]
    assert len(runs(daemon)) == 1


def test_nobody_is_told_where_no_job_says_so(daemon: Daemon, tree: Path, destination: Path) -> None:
    write_yaml(daemon, "web", tree.with_name("not-there"), destination)
    run(daemon, "web")
    assert "Told" not in daemon.log()
