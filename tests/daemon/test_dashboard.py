"""The dashboard for Grafana, asked by a real Prometheus that asks a real daemon."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storeletd.metrics import METRICS
from tests.daemon.test_daemon import SOON, problems, run, write_job, write_yaml
from tests.daemon.test_metrics import port_of
from tests.helpers import CLONE, Daemon, wait_for

DASHBOARD = CLONE / "packaging" / "grafana" / "storelet.json"
CONFIG = """\
scrape_configs:
- job_name: storelet
  scrape_interval: 200ms
  scrape_timeout: 200ms
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
JOB = """\
schedule: "30 2 * * *"
max_age: 26h
verify: {{every: 1w}}
include: [{{directory: {source}}}]
save: [{{directory: {destination}}}]
"""
# Metrics that a dashboard may name though they are not ours: node_exporter's, of our file.
FOREIGN = {"node_textfile_mtime_seconds"}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries(title: str | None = None) -> dict[str, str]:
    """Return what panels ask, or one of them, by its title and letter, as Grafana would for all."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$job", ".+")
        for panel in panels()
        for target in panel["targets"]
        if title in (None, panel["title"])
    }


class Prometheus:
    """One that asks a daemon."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """Return what it finds now. Raises HTTPError for what it cannot parse."""
        return [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]

    def shows(self, title: str) -> float | None:
        """Return the one number that a panel shows."""
        (query,) = queries(title).values()
        values = self.values(query)
        assert len(values) < 2, (title, values)
        return values[0] if values else None

    def wait(self, title: str, value: float | None) -> None:
        wait_for(lambda: self.shows(title) == value, seconds=30, what=f"“{title}” to be {value}")


@pytest.fixture
def prometheus(daemon: Daemon, tmp_path: Path) -> Iterator[Prometheus]:
    """Have the daemon answer by TCP, and a Prometheus ask it."""
    program = shutil.which("prometheus") or pytest.skip("prometheus is not installed")
    daemon.stop()
    daemon.start("--metrics", "127.0.0.1:0")
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=port_of(daemon)))
    log = tmp_path / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        listening = re.compile(r'msg="Listening on" address=127.0.0.1:(\d+)')
        found = wait_for(
            lambda: listening.search(log.read_text()), seconds=60, what="Prometheus to listen"
        )
        yield Prometheus(int(found[1]))
    finally:
        process.kill()
        process.wait()


def test_every_panel_has_data(
    daemon: Daemon, prometheus: Prometheus, tree: Path, destination: Path
) -> None:
    write_job(daemon, "web.yaml", JOB.format(source=tree, destination=destination))
    run(daemon, "web")  # a verification follows
    prometheus.wait("Jobs that are not well", 0)
    verified = "storelet_job_last_verify_exit_code"
    wait_for(lambda: prometheus.values(verified) == [0], seconds=30, what="the verification")
    asked = queries()
    assert len(asked) > 15
    assert [what for what, query in asked.items() if not prometheus.values(query)] == []
    job = next(
        each
        for each in json.loads(DASHBOARD.read_text())["templating"]["list"]
        if each["name"] == "job"
    )
    offered = re.fullmatch(r"label_values\((\w+), (\w+)\)", job["query"]["query"])
    assert offered
    assert prometheus.ask(f"label/{offered[2]}/values", **{"match[]": offered[1]}) == ["web"]


def test_it_says_what_is_not_well(
    daemon: Daemon, prometheus: Prometheus, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    prometheus.wait("Jobs that are not well", 0)
    write_job(daemon, "bad.py", 'SCHEDULE = "manual"\nraise SystemExit(1)\n')
    run(daemon, "bad")
    prometheus.wait("Jobs that are not well", 1)
    write_job(daemon, "broken.yaml", "schedule: never ever\n")
    wait_for(lambda: problems(daemon), seconds=SOON)
    prometheus.wait("Problems in job files", len(problems(daemon)))


def test_it_does_not_say_that_all_is_well_where_nobody_knows(
    daemon: Daemon, prometheus: Prometheus, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    prometheus.wait("Jobs that are not well", 0)
    assert prometheus.shows("Daemons down") == 0
    daemon.stop()
    prometheus.wait("Daemons down", 1)
    assert prometheus.shows("Jobs that are not well") is None


def test_it_is_about_metrics_that_there_are() -> None:
    named = set(re.findall(r"\b(?:storelet|node)_\w+", DASHBOARD.read_text()))
    assert named >= {"storelet_job_overdue", "storelet_job_max_age_seconds"}
    assert named - METRICS.keys() - FOREIGN == set()


def test_it_can_be_put_on_any_grafana() -> None:
    """Where it is imported nobody has our data source, and no two panels may share an id."""
    sources = {json.dumps(each) for each in find_sources(json.loads(DASHBOARD.read_text()))}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def find_sources(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "datasource":
                yield each
            else:
                yield from find_sources(each)
    elif isinstance(value, list):
        for each in value:
            yield from find_sources(each)
