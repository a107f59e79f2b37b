"""What Prometheus is told of a real daemon."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import stat
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.daemon.test_daemon import (
    SOON,
    jobs,
    problems,
    run,
    start_another,
    started,
    write_job,
    write_sleeper,
    write_yaml,
)
from tests.helpers import Daemon, wait_for


def read_metrics(text: str) -> dict[str, float]:
    """Read metrics by name and labels; a name may come once only."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in found, line
            found[name] = float(value)
    return found


def metrics(daemon: Daemon) -> dict[str, float]:
    status, text = daemon.ask("GET", "/metrics")
    assert status == 200, text
    return read_metrics(text)


def of_job(found: dict[str, float], name: str) -> dict[str, float]:
    """Return the metrics of a job without what they all begin and end with."""
    pattern = re.compile(rf'storelet_job_(\w+){{name="{name}"}}')
    return {match[1]: value for each, value in found.items() if (match := pattern.fullmatch(each))}


def write_tree(directory: Path, **files: int) -> Path:
    """Make files of so many bytes each, old enough to be reused."""
    directory.mkdir(exist_ok=True)
    for name, size in files.items():
        (directory / name).write_bytes(b"x" * size)
    return directory


def test_it_says_what_the_last_backup_took(
    daemon: Daemon, tmp_path: Path, destination: Path
) -> None:
    source = write_tree(tmp_path / "source", one=1000, two=200)
    write_yaml(daemon, "web", source, destination)
    before = time.time()
    assert run(daemon, "web")["outcome"] == "success"
    said = of_job(metrics(daemon), "web")
    archive = next(destination.glob("*.zip")).stat().st_size
    assert before - 1 <= said["last_success_timestamp_seconds"] <= time.time()
    assert 0 < said["last_run_duration_seconds"] < time.time() - before
    figures = {
        name.removeprefix("last_run_"): value
        for name, value in said.items()
        if name.endswith(("_files", "_bytes"))
    }
    assert figures == {
        "seen_files": 2,
        "read_files": 2,
        "reused_files": 0,
        "skipped_files": 0,
        "read_bytes": 1200,
        "sent_bytes": archive,
        "archive_bytes": archive,
    }


def test_it_says_which_daemon_it_is(daemon: Daemon) -> None:
    said = metrics(daemon)
    assert said[f'storelet_build_info{{version="{version("storelet")}"}}'] == 1
    assert time.time() - 60 < said["storelet_start_time_seconds"] < time.time()


def test_it_says_whether_a_job_file_is_broken(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
    assert metrics(daemon)["storelet_job_file_problems"] == 0
    write_job(daemon, path.name, "schedule: never ever\nfrobnicate: yes\n")
    wait_for(lambda: problems(daemon), seconds=SOON)
    assert metrics(daemon)["storelet_job_file_problems"] == len(problems(daemon)) > 0


def test_what_is_not_known_has_no_line(daemon: Daemon, tree: Path, destination: Path) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
    assert of_job(metrics(daemon), "web") == {
        "overdue": 0,
        "paused": 0,
        "prune_held": 0,
        "running": 0,
    }
    run(daemon, "web")
    assert "last_success_timestamp_seconds" in of_job(metrics(daemon), "web")
    path.unlink()
    wait_for(lambda: "web" not in jobs(daemon), seconds=SOON)
    assert of_job(metrics(daemon), "web") == {}


def test_max_age_is_told_where_there_is_one(daemon: Daemon, tree: Path, destination: Path) -> None:
    write_yaml(daemon, "web", tree, destination, "max_age: 26h\n")
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
    assert of_job(metrics(daemon), "web")["max_age_seconds"] == 26 * 3600


def test_a_lost_run_has_no_duration(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    started(daemon, "slow", mark)
    daemon.kill()
    daemon.start()
    said = of_job(metrics(daemon), "slow")
    assert said["last_run_exit_code"] == 1
    assert not {name for name in said if name.endswith(("_seconds", "_files", "_bytes"))}


def test_promtool_is_content(daemon: Daemon, tree: Path, destination: Path) -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool is not installed")
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    said = daemon.ask("GET", "/metrics")[1]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=said, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


# By TCP


def port_of(daemon: Daemon) -> int:
    """Return the port that the daemon was given by the kernel, as its log says."""
    said = wait_for(
        lambda: re.findall(r"Metrics are at http://\S+:(\d+)/metrics", daemon.log()), seconds=SOON
    )
    return int(said[-1])


def ask(host: str, port: int, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(("listens", "host"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")])
def test_prometheus_can_ask_by_tcp(
    daemon: Daemon, tree: Path, destination: Path, listens: str, host: str
) -> None:
    daemon.stop()
    daemon.start("--metrics", f"{listens}:0")
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    status, text = ask(host, port_of(daemon), "GET", "/metrics")
    assert (status, read_metrics(text).keys()) == (200, metrics(daemon).keys())
    assert f"Metrics are at http://{listens}:" in daemon.log()


def test_nothing_else_is_answered_by_tcp(daemon: Daemon, tree: Path, destination: Path) -> None:
    daemon.stop()
    daemon.start("--metrics", "127.0.0.1:0")
    write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
    port = port_of(daemon)
    assert ask("127.0.0.1", port, "POST", "/metrics")[0] == 405
    for method, path in (
        ("GET", "/"),
        ("GET", "/jobs"),
        ("GET", "/jobs/web"),
        ("GET", "/runs"),
        ("POST", "/jobs/web/runs"),
        ("POST", "/jobs/web/pause"),
        ("POST", "/reload"),
    ):
        assert ask("127.0.0.1", port, method, path) == (404, "Not Found"), path
    assert daemon.request("GET", "/runs")[1] == {"runs": []}


def test_no_port_is_open_unless_it_is_asked_for(daemon: Daemon) -> None:
    listening = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{daemon.pid}/net/{table}").read_text().splitlines()[1:]
    }
    opened = {str(each.readlink()) for each in Path(f"/proc/{daemon.pid}/fd").iterdir()}
    assert not {f"socket:[{inode}]" for inode in listening} & opened


def test_a_port_that_is_taken_is_one_clear_line(daemon: Daemon, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = start_another(
            daemon, "--metrics", address, state=tmp_path / "2", socket=tmp_path / "s"
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"cannot listen on {address}: Address already in use" in line
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("address", ["9464", ":9464", "::1:9464", "[::1]", "host:65536", "a:-1"])
def test_an_address_that_is_none_is_a_wrong_command_line(
    daemon: Daemon, tmp_path: Path, address: str
) -> None:
    done = start_another(
        daemon, f"--metrics={address}", state=tmp_path / "2", socket=tmp_path / "s"
    )
    assert (done.returncode, done.stderr.count("not HOST:PORT")) == (2, 1), done.stderr


# As a textfile


@pytest.fixture
def textfile(daemon: Daemon, tmp_path: Path) -> Path:
    """Have the daemon write one, and wait for it."""
    path = tmp_path / "collector" / "storelet.prom"
    path.parent.mkdir()
    daemon.stop()
    daemon.start("--metrics-file", str(path))
    wait_for(path.exists, seconds=SOON)
    return path


def test_a_textfile_says_how_a_run_ended(
    daemon: Daemon, textfile: Path, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    exit_code = 'storelet_job_last_run_exit_code{name="web"} 0\n'
    wait_for(lambda: exit_code in textfile.read_text(), seconds=SOON, what="the run's end")
    assert read_metrics(textfile.read_text()).keys() == metrics(daemon).keys()


def test_a_textfile_says_what_became_of_job_files(
    daemon: Daemon, textfile: Path, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: '{name="web"}' in textfile.read_text(), seconds=SOON, what="the job")
    write_job(daemon, path.name, "schedule: never ever\n")
    wait_for(
        lambda: read_metrics(textfile.read_text())["storelet_job_file_problems"],
        seconds=SOON,
        what="the broken file",
    )
    path.unlink()
    wait_for(lambda: '{name="web"}' not in textfile.read_text(), seconds=SOON, what="its end")


def test_a_textfile_is_new_at_least_every_so_often(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "storelet.prom"
    daemon.stop()
    program = (
        "import storeletd.__main__ as m, storeletd.textfile as t, storeletd.daemon as d\n"
        "t.EVERY_SECONDS, d.SCAN_SECONDS = 0.1, 3600\n"
        "m.main()\n"
    )
    daemon.start("--metrics-file", str(path), program=program)
    seen = set()

    def is_new_thrice() -> bool:
        seen.add(path.stat().st_mtime_ns)
        return len(seen) > 3

    wait_for(is_new_thrice, seconds=SOON, what="a file that was written thrice")


def test_a_textfile_is_never_half_and_everybodys_to_read(
    daemon: Daemon, textfile: Path, tree: Path, destination: Path
) -> None:
    assert stat.S_IMODE(textfile.stat().st_mode) == 0o644
    write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: '{name="web"}' in textfile.read_text(), seconds=SOON, what="the job")
    with textfile.open() as before:
        said = textfile.read_text()
        run(daemon, "web")
        wait_for(lambda: textfile.read_text() != said, seconds=SOON, what="the run's end")
        assert before.read() == said  # who reads it meanwhile reads the one of before, whole
    assert [each.name for each in textfile.parent.iterdir()] == [textfile.name]


def test_no_textfile_outlives_a_daemon_that_ended_in_order(daemon: Daemon, textfile: Path) -> None:
    daemon.stop()
    assert list(textfile.parent.iterdir()) == []


def test_a_textfile_that_cannot_be_written_is_said_once(
    daemon: Daemon, textfile: Path, tree: Path, destination: Path
) -> None:
    shutil.rmtree(textfile.parent)
    write_yaml(daemon, "web", tree, destination)
    for _ in range(3):
        assert run(daemon, "web")["outcome"] == "success"
    said = f"The metrics cannot be written to {textfile} now: No such file or directory"
    assert daemon.log().count(said) == daemon.log().count("cannot be written") == 1
    textfile.parent.mkdir()
    run(daemon, "web")
    wait_for(textfile.exists, seconds=SOON, what="the file, as its directory is there again")


def test_a_textfile_in_a_directory_that_is_none_keeps_no_daemon_from_its_start(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.stop()
    daemon.start("--metrics-file", str(tmp_path / "nowhere" / "storelet.prom"))
    assert daemon.log().count("The metrics cannot be written") == 1
