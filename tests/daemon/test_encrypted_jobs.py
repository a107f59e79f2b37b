"""Jobs with a password: it comes from where the job says, and is nowhere else to be seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.daemon.test_daemon import run, write_yaml
from tests.helpers import Daemon, wait_for
from tests.nights import contents, contents_of, last

PASSWORD = "a-password-nobody-may-see"
REFERENCES = ["{credential: password}", "{file: FILE}", "{env: A_PASSWORD}", PASSWORD]


@pytest.fixture
def with_secrets(daemon: Daemon, tmp_path: Path) -> Path:
    """Give the daemon the password in each way there is; return the credentials' directory."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "password").write_text(f"{PASSWORD}\n")
    daemon.stop()
    daemon.environment |= {"CREDENTIALS_DIRECTORY": str(credentials), "A_PASSWORD": PASSWORD}
    daemon.start()
    return credentials


@pytest.mark.parametrize("reference", REFERENCES)
def test_an_archive_is_encrypted_with_the_password_the_job_names(
    daemon: Daemon, tree: Path, destination: Path, with_secrets: Path, reference: str
) -> None:
    reference = reference.replace("FILE", str(with_secrets / "password"))
    write_yaml(daemon, "web", tree, destination, f"encryption: {{password: {reference}}}\n")
    done = run(daemon, "web")
    assert done["outcome"] == "success", done
    found = last(destination, PASSWORD)
    assert contents(found) == contents_of(tree)
    assert all(member.is_encrypted for member in found.members if member.size)
    shown = daemon.ctl("show", "web").stdout + daemon.ctl("show", "web", "--json").stdout
    written = daemon.log() + json.dumps(daemon.request("GET", "/jobs/web")[1]) + json.dumps(done)
    assert PASSWORD not in written + shown
    assert all(PASSWORD.encode() not in path.read_bytes() for path in daemon.state.iterdir())


def test_no_process_of_a_run_shows_the_password(
    daemon: Daemon, tmp_path: Path, destination: Path, with_secrets: Path
) -> None:
    """With enough small files for helpers, and a command."""
    assert with_secrets
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3_000):
        (source / f"{number}").write_bytes(b"text " * number)
    daemon.stop()
    del daemon.environment["A_PASSWORD"]
    daemon.start()
    more = "encryption: {password: {credential: password}}\n"
    write_yaml(daemon, "web", source, destination, more)
    wait_for(lambda: daemon.request("GET", "/jobs/web")[0] == 200, what="the job")
    daemon.request("POST", "/jobs/web/runs")
    shown: dict[str, bytes] = {}

    def is_over() -> bool:
        for process in daemon.processes():
            number, _, title = process.partition(" ")
            try:
                environment = Path("/proc", number, "environ").read_bytes()
            except OSError:
                continue
            shown[title] = title.encode() + environment
        return bool(list(destination.glob("*.zip")))

    wait_for(is_over, seconds=60, what="an archive")
    titles = " ".join(shown)
    for title in ("keeper.py", "storeletd.worker", "storelet.packer"):
        assert title in titles
    assert not [title for title, each in shown.items() if PASSWORD.encode() in each]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file or directory"), ("\n", "it is empty"), ("x" * 100, "more than 99 bytes")],
    ids=["none", "empty", "too long"],
)
def test_without_a_password_nothing_is_written_and_nothing_run(
    daemon: Daemon,
    tree: Path,
    destination: Path,
    with_secrets: Path,
    tmp_path: Path,
    content: str | None,
    reason: str,
) -> None:
    (with_secrets / "password").unlink()
    if content is not None:
        (with_secrets / "password").write_text(content)
    mark = tmp_path / "mark"
    path = write_yaml(
        daemon, "web", tree, destination, "encryption: {password: {credential: password}}\n"
    )
    text = path.read_text().replace(
        "include:\n", f"include:\n- new_dir: made\n  run: touch {mark}\n"
    )
    path.write_text(text)
    done = run(daemon, "web")
    assert (done["outcome"], done["exit_code"]) == ("failed", 12)
    assert reason in done["message"]
    assert list(destination.iterdir()) == []
    assert not mark.exists()


def test_another_password_is_noted_and_makes_a_full_archive(
    daemon: Daemon, tree: Path, destination: Path, with_secrets: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, "encryption: {password: {credential: password}}\n")
    run(daemon, "web")
    (with_secrets / "password").write_text("open-barley")
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    assert done["bytes"]["reused"] == 0
    assert len(done["notes"]) == 1
    assert "has another password" in done["notes"][0]
    assert contents(last(destination, "open-barley")) == contents_of(tree)
