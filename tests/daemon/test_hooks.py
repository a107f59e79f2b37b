"""Commands before and after runs: what they decide, what they are told, and that they are run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.clock import DAY, NIGHT, Clock
from tests.daemon.test_daemon import finished, run, started, write_job, write_sleeper, write_yaml
from tests.daemon.test_time import clock, restart
from tests.daemon.test_time import finished as all_finished
from tests.helpers import Daemon, wait_for

__all__ = ["clock"]  # a fixture

HOOKS = ("before", "after", "on_failure")


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """A file in which hooks write what they know."""
    return tmp_path / "diary"


def note(hook: str, diary: Path) -> str:
    """Return a command that writes what it is told."""
    return f"(echo {hook}; pwd; env | grep ^STORELET_; echo) >> {diary}"


def write_hooks(diary: Path, **more: str) -> str:
    """Return settings of a job: each hook writes what it is told, then does some more."""
    texts = {hook: f"{note(hook, diary)}; {more.get(hook, '')}" for hook in HOOKS}
    return "".join(f"{hook}: |\n  {text}\n" for hook, text in texts.items())


def read(diary: Path) -> dict[str, dict[str, str]]:
    """Return what each hook was told, in the order in which they were run."""
    told = {}
    for entry in diary.read_text().split("\n\n")[:-1]:
        hook, directory, *lines = entry.split("\n")
        assert directory == "/"
        told[hook] = dict(line.removeprefix("STORELET_").split("=", 1) for line in lines)
    return told


def test_they_are_run_in_turn_and_told_of_the_run(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, write_hooks(diary, before="echo a remark"))
    done = run(daemon, "web")
    assert (done["outcome"], done["id"]) == ("success", 1)
    (archive,) = destination.iterdir()
    this = {"JOB": "web", "RUN": "1", "KIND": "backup", "MESSAGE": ""}
    assert list(read(diary).items()) == [
        ("before", this | {"OUTCOME": "", "ARCHIVES": ""}),
        ("after", this | {"OUTCOME": "success", "ARCHIVES": archive.as_uri()}),
    ]
    assert "a remark" in daemon.ctl("logs", "web").stdout


def test_before_comes_before_anything_is_read(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    hooks = f"before: [mv, {tree}, {tree}-moved]\nafter: [mv, {tree}-moved, {tree}]\n"
    write_yaml(daemon, "web", tree.with_name(f"{tree.name}-moved"), destination, hooks)
    assert run(daemon, "web")["outcome"] == "success"
    assert tree.is_dir()


def test_a_before_that_fails_fails_the_run(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, write_hooks(diary, before="exit 9"))
    done = run(daemon, "web")
    assert done["outcome"] == "failed"
    assert done["message"] == "the command of before ended with status 9"
    assert list(destination.iterdir()) == []
    told = read(diary)
    assert list(told) == ["before", "after", "on_failure"]
    assert told["after"] == told["on_failure"]
    assert told["on_failure"]["OUTCOME"] == "failed"
    assert told["on_failure"]["MESSAGE"] == done["message"]


def test_a_before_that_ends_with_75_skips_the_run(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    write_yaml(daemon, "web", tree, destination, write_hooks(diary, before="exit 75"))
    done = run(daemon, "web")
    assert (done["outcome"], done["exit_code"]) == ("skipped", 75)
    assert list(destination.iterdir()) == []
    assert list(read(diary)) == ["before", "after"]  # and no on_failure
    assert read(diary)["after"]["OUTCOME"] == "skipped"


def test_what_comes_after_can_only_warn(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    source = tree.with_name("not-there")
    write_yaml(
        daemon, "web", source, destination, write_hooks(diary, after="exit 7", on_failure="kill $$")
    )
    done = run(daemon, "web")
    assert done["message"] == f"no such directory: {source}"
    assert done["notes"] == [
        "the command of after ended with status 7",
        "the command of on_failure ended with signal 15",
    ]
    tree.rename(source)
    done = run(daemon, "web")
    assert (done["outcome"], done["exit_code"]) == ("success", 0)
    assert "the command of after ended with status 7" in done["notes"]
    write_yaml(daemon, "other", source, destination, "after: [no-such-program]\n")
    done = run(daemon, "other")
    assert done["outcome"] == "success"
    assert "cannot run the command of after: No such file or directory" in done["notes"]


def test_after_a_timeout_they_are_run_also_where_the_run_had_to_be_killed(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)\n"
    constants = "".join(f"{hook.upper()} = {note(hook, diary)!r}\n" for hook in HOOKS)
    write_job(daemon, "web.py", f'SCHEDULE = "manual"\nTIMEOUT = "1s"\n{constants}{code}')
    done = run(daemon, "web")
    assert done["outcome"] == "timeout"
    told = read(diary)
    assert list(told) == ["before", "after", "on_failure"]
    assert (told["after"]["OUTCOME"], told["after"]["MESSAGE"]) == ("timeout", done["message"])


def test_they_are_run_after_a_worker_that_died(daemon: Daemon, diary: Path) -> None:
    after = f"AFTER = {note('after', diary)!r}"
    code = "import os\nos.kill(os.getpid(), 9)\n"
    write_job(daemon, "web.py", f'SCHEDULE = "manual"\n{after}\n{code}')
    assert run(daemon, "web")["outcome"] == "failed"
    assert read(diary)["after"]["MESSAGE"] == "it was ended by signal 9"


def test_after_is_run_where_somebody_cancels_the_run_or_stops_the_daemon(
    daemon: Daemon, tmp_path: Path, diary: Path
) -> None:
    mark = tmp_path / "mark"
    on_failure = f"touch {tmp_path}/on-failure"
    hooks = f"AFTER = {note('after', diary)!r}; ON_FAILURE = {on_failure!r}"
    write_sleeper(daemon, "web", mark, hooks)
    run_id = started(daemon, "web", mark)
    daemon.request("POST", f"/runs/{run_id}/cancel")
    assert finished(daemon, run_id)["outcome"] == "cancelled"
    assert read(diary)["after"]["OUTCOME"] == "cancelled"
    diary.unlink()
    mark.unlink()
    started(daemon, "web", mark)
    daemon.stop()
    assert read(diary)["after"]["MESSAGE"] == "storeletd was stopped"
    assert not (tmp_path / "on-failure").exists()


def test_an_after_that_hangs_is_ended(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    more = write_hooks(diary, after="sleep 1000")
    write_yaml(daemon, "web", tree, destination, f"timeout: 4s\n{more}")
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    note = "what comes after the run was not done to its end: it took too long"
    assert note in done["notes"]
    daemon.assert_alone()


def test_who_cancels_a_run_that_is_saved_does_not_break_off_its_after(
    daemon: Daemon, tree: Path, destination: Path, tmp_path: Path
) -> None:
    begun, go_on, done = (tmp_path / name for name in ("begun", "go-on", "done"))
    hook = f"touch {begun}; while ! test -e {go_on}; do sleep 0.1; done; touch {done}"
    write_yaml(daemon, "web", tree, destination, f"after: {hook}\n")
    run_id = started(daemon, "web", begun)
    daemon.request("POST", f"/runs/{run_id}/cancel")
    go_on.touch()
    assert finished(daemon, run_id)["outcome"] == "success"
    assert done.exists()


def test_while_before_is_run_nothing_is_idle(daemon: Daemon, tree: Path, destination: Path) -> None:
    more = "idle_timeout: 1s\nbefore: sleep 3\n"
    write_yaml(daemon, "web", tree, destination, more)
    assert run(daemon, "web")["outcome"] == "success"


def test_they_get_no_keys_and_show_no_secrets(
    daemon: Daemon, tree: Path, destination: Path, tmp_path: Path
) -> None:
    daemon.stop()
    daemon.environment |= {"AWS_SECRET_ACCESS_KEY": "planted", "CREDENTIALS_DIRECTORY": "/planted"}
    daemon.start()
    hooks = "".join(f"{hook}: env > {tmp_path}/{hook}; true --token=shy\n" for hook in HOOKS)
    write_yaml(daemon, "web", tree, destination, f"environment: {{OWN: mine}}\n{hooks}")
    assert run(daemon, "web")["outcome"] == "success"
    for hook in ("before", "after"):
        said = (tmp_path / hook).read_text()
        assert "OWN=mine\n" in said
        assert "planted" not in said
    shown = daemon.ctl("show", "web").stdout
    assert shown.count("--token=***") == 3
    assert "shy" not in shown + daemon.log()


def test_a_verification_has_them_too(
    daemon: Daemon, tree: Path, destination: Path, diary: Path
) -> None:
    away = destination.with_name("away")
    more = write_hooks(diary, before=f"mv {away} {destination}", after=f"mv {destination} {away}")
    destination.rename(away)
    write_yaml(daemon, "web", tree, destination, f"verify: {{every: 1w}}\n{more}")
    assert run(daemon, "web")["outcome"] == "success"
    verification = all_finished(daemon, 2)[1]
    assert (verification["kind"], verification["outcome"]) == ("verify", "success")
    assert read(diary)["after"]["KIND"] == "verify"


def test_a_catch_up_does_not_wait_for_a_disk_that_before_mounts(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    destination.rmdir()
    path = write_yaml(daemon, "web", tree, destination, f"before: [mkdir, {destination}]\n")
    path.write_text(path.read_text().replace("manual", '"0 3 * * *"'))
    daemon.ctl("reload")
    restart(daemon, clock, NIGHT + DAY)
    (done,) = all_finished(daemon, 1)
    assert (done["cause"], done["outcome"]) == ("catch-up", "success")


def test_a_hook_that_is_no_command_is_named(daemon: Daemon, tree: Path, destination: Path) -> None:
    path = write_yaml(daemon, "web", tree, destination, "before: 75\n")
    said = daemon.ctl("validate", str(path), check=False)
    assert said.returncode == 78
    assert "before: expected a command" in said.stdout + said.stderr


def test_nothing_is_left_of_a_daemon_that_is_killed_while_after_is_run(
    daemon: Daemon, tree: Path, destination: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    write_yaml(daemon, "web", tree, destination, f"after: touch {mark}; sleep 1000\n")
    started(daemon, "web", mark)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.process.wait()
    wait_for(lambda: not daemon.processes(), seconds=30, what="the end of all")
