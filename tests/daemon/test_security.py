"""Who may do what: users, capabilities, secrets and what others may do to them, for real."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from storeletd import keeper
from tests.answering import answering
from tests.helpers import CLONE, Daemon, wait_for

NOBODY = "nobody"
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become others")


def write_job_file(daemon: Daemon, name: str, text: str) -> Path:
    path = daemon.jobs / name
    path.write_text(textwrap.dedent(text))
    path.chmod(0o644)
    return path


def write_job(daemon: Daemon, name: str, text: str) -> Path:
    path = write_job_file(daemon, name, text)
    daemon.ctl("reload")
    return path


def run_by(*command: str) -> str:
    """Return a program for `Daemon.start` that becomes the command, with the daemon's options."""
    return f"import os, sys; os.execvp({command[0]!r}, {list(command)} + sys.argv[1:])"


def run(daemon: Daemon, name: str) -> dict[str, Any]:
    """Run a job to its end and return the run with its output."""
    done = daemon.ctl("run-now", "--json", name, check=False)
    answer = json.loads(done.stdout)
    (run_id,) = [each["id"] for each in answer["runs"]]
    found: dict[str, Any] = daemon.request("GET", f"/runs/{run_id}")[1]
    return found


def only_archive(directory: Path) -> zipfile.ZipFile:
    (archive,) = directory.glob("*.zip")
    return zipfile.ZipFile(archive)


# Users and capabilities, with places and a Python that nobody can reach


@pytest.fixture
def place() -> Iterator[Path]:
    """Make a directory that everybody can reach; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="storelet-", dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def python(place: Path) -> str:
    """Find a Python that others than root can reach, with all that Storelet needs."""
    if os.geteuid() != 0:
        pytest.skip("only root may become others")
    if _runs_storelet(sys.executable):
        return sys.executable
    system = Path("/usr/bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    if not system.exists():
        pytest.skip(f"{sys.executable} is not for others, and there is no {system}")
    made = place / "python"
    subprocess.run([system, "-m", "venv", "--without-pip", made], check=True)
    (packages,) = made.glob("lib/python*/site-packages")
    paths = [CLONE, *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "storelet.pth").write_text("".join(f"{path}\n" for path in paths))
    python = str(made / "bin" / "python")
    if not _runs_storelet(python):
        pytest.skip("this clone, or what it needs, is not for others to read")
    return python


def _runs_storelet(python: str) -> bool:
    command = [python, "-P", "-c", "import storeletd.worker, boto3"]
    try:
        done = subprocess.run(
            command, user=NOBODY, group=pwd.getpwnam(NOBODY).pw_gid, extra_groups=[], cwd="/",
            capture_output=True,
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def running(place: Path, *command: str) -> Iterator[Daemon]:
    """Run a storeletd by a command; the name of the socket's directory is what tells it apart."""
    own = place / "daemon"
    own.mkdir(mode=0o711)
    jobs = place / "jobs"
    jobs.mkdir(mode=0o755)
    daemon = Daemon(jobs=jobs, state=own / "state", socket=own / "storeletd.sock")
    (own / "temporary").mkdir()
    (own / "temporary").chmod(0o1777)
    daemon.environment["TMPDIR"] = str(own / "temporary")
    program = run_by(*command)
    if command[0] == "setpriv":
        shutil.chown(own, NOBODY)
    try:
        daemon.start(program=program)
        yield daemon
        daemon.stop()
        daemon.assert_alone()
        assert os.listdir(own / "temporary") == []
    finally:
        daemon.kill()


@pytest.fixture
def as_shipped(python: str) -> list[str]:
    """Return a command as the shipped unit has it: it may read every file, and nothing else."""
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv, of util-linux")
    user = pwd.getpwnam(NOBODY)
    become = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    capability = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    bounds = "--bounding-set=-all,+dac_read_search"
    return ["setpriv", *become, *capability, bounds, python, "-P", "-m", "storeletd"]


@pytest.fixture
def unprivileged(place: Path, as_shipped: list[str]) -> Iterator[Daemon]:
    """Run one as the shipped unit does."""
    with running(place, *as_shipped) as daemon:
        yield daemon


@pytest.fixture
def of_root(place: Path, python: str) -> Iterator[Daemon]:
    """Run one as root, whose workers others can be."""
    with running(place, python, "-P", "-m", "storeletd") as daemon:
        yield daemon


@pytest.fixture
def archives(place: Path) -> Path:
    path = place / "archives"
    path.mkdir()
    shutil.chown(path, NOBODY)
    return path


@pytest.fixture
def roots(place: Path) -> Path:
    """Make a directory with a file that is root's alone."""
    path = place / "roots"
    path.mkdir()
    (path / "secret").write_text("for root")
    (path / "secret").chmod(0o600)
    return path


@pytest.mark.parametrize("privileged", [False, True])
def test_a_command_loses_the_capability_unless_it_is_to_keep_it(
    unprivileged: Daemon, roots: Path, archives: Path, privileged: bool
) -> None:
    """The run itself keeps it, and so do its helpers: what is only root's is in the archive."""
    for number in range(3000):  # enough for the helper processes
        (roots / f"file {number}").write_text(f"{number}\n" * 500)
        (roots / f"file {number}").chmod(0o600)
    write_job(
        unprivileged,
        "web.yaml",
        f"""\
        schedule: manual
        log_files: false
        include:
        - new_dir: made
          run: cat {roots}/secret > read; grep Cap /proc/self/status > capabilities; true
          privileged: {str(privileged).lower()}
        - directory: {roots}
        - new_dir: later
          run: cat {roots}/secret > read; true
        save:
        - directory: {archives}
        """,
    )
    done = run(unprivileged, "web")
    assert (done["outcome"], done["files"]["skipped"]) == ("success", 0), done
    with only_archive(archives) as archive:
        assert archive.read("made/read") == (b"for root" if privileged else b"")
        assert archive.read("later/read") == b""
        assert archive.read("secret") == b"for root"
        assert archive.read("file 2999") == b"2999\n" * 500
        said = archive.read("made/capabilities").decode().split()
    capability = "0000000000000004" if privileged else "0000000000000000"
    held = dict(zip(said[::2], said[1::2], strict=True))
    assert {held["CapPrm:"], held["CapEff:"], held["CapAmb:"]} == {capability}
    refused = [line for line in done["output"] if "Permission denied" in line]
    assert len(refused) == (1 if privileged else 2)


WHO = """\
    import json, os, pathlib, sys
    own = pathlib.Path(os.environ["TMPDIR"])
    status = pathlib.Path("/proc/self/status").read_text()
    try:
        os.setuid(0)
    except PermissionError:
        root = False
    else:
        root = True
    print(json.dumps({
        "ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "root": root,
        "capabilities": [line.split()[1] for line in status.splitlines() if line.startswith("Cap")],
        "environment": {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")},
        "temporary": [own.stat().st_uid, own.stat().st_mode & 0o777],
    }))
"""


def said_by(done: dict[str, Any]) -> dict[str, Any]:
    (line,) = [line for line in done["output"] if line.startswith('{"ids"')]
    found: dict[str, Any] = json.loads(line)
    return found


def assert_is_nobody(said: dict[str, Any]) -> None:
    user = pwd.getpwnam(NOBODY)
    assert said["ids"] == [user.pw_uid] * 3 + [user.pw_gid] * 3
    assert said["groups"] == os.getgrouplist(NOBODY, user.pw_gid)
    assert not said["root"]
    assert {int(each, 16) for each in said["capabilities"][1:3]} == {0}  # permitted, effective
    assert int(said["capabilities"][4], 16) == 0  # ambient
    assert said["environment"] == {"HOME": user.pw_dir, "USER": NOBODY, "LOGNAME": NOBODY}
    assert said["temporary"] == [user.pw_uid, 0o700]


def test_a_job_runs_as_its_user_and_is_ended_and_removed_all_the_same(
    of_root: Daemon, place: Path
) -> None:
    mark = place / "marks"
    mark.mkdir(mode=0o1777)
    mark.chmod(0o1777)
    write_job(
        of_root,
        "who.py",
        'SCHEDULE = "manual"\nUSER = "nobody"\n'
        + textwrap.dedent(WHO)
        + textwrap.dedent(
            f"""\
            import subprocess, time
            (own / "deep" / "closed").mkdir(parents=True)
            (own / "deep" / "closed" / "file").touch()
            (own / "deep").chmod(0)
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            sys.stdout.flush()
            open({str(mark / "on")!r}, "w").close()
            time.sleep(1000)
            """
        ),
    )
    run_id = of_root.request("POST", "/jobs/who/runs")[1]["run"]["id"]
    wait_for((mark / "on").exists, seconds=20)
    of_root.ctl("cancel", "who")

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = of_root.request("GET", f"/runs/{run_id}")[1]
        return found if found["state"] == "finished" else None

    done = wait_for(look, seconds=20)
    assert done["outcome"] == "cancelled"
    assert_is_nobody(said_by(done))


def test_a_yaml_job_of_a_user_has_his_rights_and_no_more(
    of_root: Daemon, roots: Path, archives: Path
) -> None:
    (roots / "public").write_text("for all")
    write_job(
        of_root,
        "web.yaml",
        f"""\
        schedule: manual
        user: nobody
        include:
        - directory: {roots}
        - new_dir: made
          run: id -un > who
        save:
        - directory: {archives}
        """,
    )
    done = run(of_root, "web")
    assert (done["outcome"], done["exit_code"]) == ("partial", 3)
    assert [each["path"] for each in done["skipped_entries"]] == [str(roots / "secret")]
    with only_archive(archives) as archive:
        assert archive.read("public") == b"for all"
        assert archive.read("made/who") == b"nobody\n"
        assert archive.filename is not None
        assert Path(archive.filename).owner() == NOBODY


def test_a_command_runs_as_its_user_in_a_directory_that_is_his(
    of_root: Daemon, roots: Path, archives: Path, place: Path, python: str
) -> None:
    """By its path, too, though that leads through a directory of the run's own."""
    (place / "who.py").write_text(textwrap.dedent(WHO))
    write_job(
        of_root,
        "web.yaml",
        f"""\
        schedule: manual
        include:
        - new_dir: made
          run: |
            {python} {place}/who.py && umask 077 && id -un > "{{dir}}/who" && mkdir {{dir}}/closed
            echo in it > closed/file; chmod 0 closed; mktemp > /dev/null
            ls "$(dirname {{dir}})"; cat {roots}/secret; true
          user: nobody
        - new_dir: ours
          run: id -un > who; stat -c %a "$TMPDIR" > mode
        - directory: {roots}
        save:
        - directory: {archives}
        """,
    )
    done = run(of_root, "web")
    assert done["outcome"] == "success", done
    assert_is_nobody(said_by(done))
    assert sum("Permission denied" in line for line in done["output"]) == 2
    with only_archive(archives) as archive:
        assert archive.read("made/who") == b"nobody\n"
        assert archive.read("made/closed/file") == b"in it\n"
        assert archive.read("ours/who") == b"root\n"
        assert archive.read("ours/mode") == b"700\n"
        assert archive.read("secret") == b"for root"


@pytest.mark.parametrize("under_systemd", [False, True])
@pytest.mark.parametrize("whose", ["job", "command"])
def test_a_daemon_that_may_not_become_others_says_so_and_what_to_do(
    place: Path, python: str, archives: Path, whose: str, under_systemd: bool
) -> None:
    user = pwd.getpwnam(NOBODY)
    become = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    more = ["env", "INVOCATION_ID=0"] if under_systemd else []
    with running(place, "setpriv", *become, *more, python, "-P", "-m", "storeletd") as daemon:
        write_job(
            daemon,
            "web.yaml",
            f"""\
            schedule: manual
            {"user: daemon" if whose == "job" else ""}
            include:
            - new_dir: made
              run: touch file
              {"user: daemon" if whose == "command" else ""}
            save:
            - directory: {archives}
            """,
        )
        done = run(daemon, "web")
    assert (done["outcome"], done["exit_code"]) == ("failed", 77)
    said = {
        "job": "the run may not become user daemon: Operation not permitted",
        "command": "a command may not be run as user daemon: Operation not permitted",
    }
    assert done["message"] == said[whose]
    if under_systemd:
        assert done["hint"] == (
            "`systemctl edit storeletd`, there [Service], User=root,"
            " CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID"
            " CAP_SETUID and SystemCallFilter=@setuid @chown @resources capset"
        )
    else:
        assert done["hint"] == "for that, run it as root"
    assert list(archives.iterdir()) == []


def test_a_read_only_destination_hints_at_the_units_lines(daemon: Daemon, tmp_path: Path) -> None:
    """Of two destinations the one it is about; a path as systemd reads it."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"]).returncode != 0:
        pytest.skip("needs mounts of its own, which this machine lets nobody have")
    closed, other = tmp_path / 'a 5% "nas"', tmp_path / "other"
    closed.mkdir()
    other.mkdir()
    daemon.stop()
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(closed)]
    command += [sys.executable, "-m", "storeletd"]
    text = (
        f"schedule: manual\ninclude:\n- new_dir: made\n  run: touch file\nsave:\n"
        f"- directory: {other}\n- directory: '{closed}'\n"
    )
    write_job_file(daemon, "web.yaml", text)
    hints = []
    for invocation in ({}, {"INVOCATION_ID": "0"}):
        daemon.environment |= invocation
        daemon.start(program=run_by(*command))
        done = run(daemon, "web")
        assert (done["outcome"], done["exit_code"]) == ("failed", 77)
        assert f"cannot write to directory {closed}: Read-only file system" in done["message"]
        hints.append(done["hint"])
        daemon.stop()
    path = str(closed).replace("%", "%%").replace('"', '\\"')
    assert "systemctl edit" not in hints[0]
    assert hints[1] == f'`systemctl edit storeletd`, there [Service] and ReadWritePaths="{path}"'
    daemon.start()


def test_a_destination_of_somebody_elses_hints_at_its_owner(
    unprivileged: Daemon, as_shipped: list[str], roots: Path
) -> None:
    text = (
        f"schedule: manual\ninclude:\n- new_dir: made\n  run: touch file\nsave:\n"
        f"- directory: {roots}\n"
    )
    write_job(unprivileged, "web.yaml", text)
    assert run(unprivileged, "web")["hint"] == f"see: ls -ld {roots}"
    unprivileged.stop()
    unprivileged.environment["INVOCATION_ID"] = "0"
    unprivileged.start(program=run_by(*as_shipped))
    hint = run(unprivileged, "web")["hint"]
    assert hint.startswith(f"chown nobody {roots}; or `systemctl edit storeletd`, there [Service],")


@pytest.mark.parametrize("whose", ["job", "command"])
def test_a_user_who_is_not_there_is_a_clear_failure(
    daemon: Daemon, tmp_path: Path, whose: str
) -> None:
    of_job, of_command = ("user: nosuch", "") if whose == "job" else ("", "user: nosuch")
    write_job(
        daemon,
        "web.yaml",
        f"schedule: manual\n{of_job}\ninclude:\n- new_dir: made\n  run: touch file\n"
        f"  {of_command}\nsave:\n- directory: {tmp_path}\n",
    )
    done = run(daemon, "web")
    assert (done["outcome"], done["message"]) == ("failed", "no such user: nosuch")
    assert done["hint"] == "see: getent passwd"


def test_a_job_of_the_daemons_own_user_needs_no_rights(daemon: Daemon, tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    (tmp_path / "archives").mkdir()
    write_job(
        daemon,
        "web.yaml",
        f"schedule: manual\nuser: {me}\ninclude:\n- new_dir: made\n  run: id -un > who\n"
        f"  user: {me}\nsave:\n- directory: {tmp_path / 'archives'}\n",
    )
    assert run(daemon, "web")["outcome"] == "success"
    with only_archive(tmp_path / "archives") as archive:
        assert archive.read("made/who").decode() == f"{me}\n"


def test_the_keeper_goes_through_no_link_put_in_the_place_of_what_it_found(tmp_path: Path) -> None:
    """A user whose run a keeper of root's cleans up after may still have other processes."""
    precious = tmp_path / "precious"
    (precious / "sub").mkdir(parents=True, mode=0o755)
    (precious / "sub" / "file").touch()
    own = tmp_path / "own"
    (own / "a" / "sub").mkdir(parents=True)
    place = (str(own),)
    assert keeper._empty(place) == [(*place, "a")]
    assert keeper._empty((*place, "a")) == [(*place, "a", "sub")]
    (own / "a").rename(own / "b")
    (own / "a").symlink_to(precious)  # now, with both found already
    before = (precious / "sub").stat()
    assert keeper._empty((*place, "a")) == []
    assert keeper._empty((*place, "a", "sub")) == []
    with pytest.raises(NotADirectoryError):
        keeper._remove_empty((*place, "a", "sub"))
    assert (precious / "sub").stat() == before
    assert (precious / "sub" / "file").exists()


# Commands and their environment


@pytest.mark.parametrize(
    "name", ["a b", "quo'te", 'quo"te', "dollar $HOME $(touch x)", "new\nline", "`back` \\ticks; *"]
)
@pytest.mark.parametrize("kind", ["list", "shell", "quoted"])
def test_the_new_directory_is_one_word_whatever_its_name(
    daemon: Daemon, tmp_path: Path, name: str, kind: str
) -> None:
    temporary = tmp_path / name
    temporary.mkdir()
    archives = tmp_path / "archives"
    archives.mkdir()
    daemon.stop()
    daemon.environment["TMPDIR"] = str(temporary)
    daemon.start()
    command = {
        "list": '["sh", "-c", "echo it > \\"$1\\"/file", "sh", "{dir}"]',
        "shell": "echo it > {dir}/file",
        "quoted": "echo it > {dir}/'file' && test -d {dir}",
    }[kind]
    write_job(
        daemon,
        "web.yaml",
        f"schedule: manual\ninclude:\n- new_dir: made\n  run: {command}\n"
        f"save:\n- directory: {archives}\n",
    )
    done = run(daemon, "web")
    assert done["outcome"] == "success", done
    with only_archive(archives) as archive:
        assert archive.read("made/file") == b"it\n"
        assert set(archive.namelist()) == {"made/", "made/file"}
    assert os.listdir(temporary) == []


def test_workers_and_commands_get_no_variable_that_nobody_named(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.stop()
    planted = {"PLANTED": "x", "LD_PRELOAD": "", "PYTHONPATH": "/", "BASH_ENV": "/x", "ENV": "/x"}
    daemon.environment |= planted | {"NAMED": "mine", "AWS_PROFILE": "none", "IFS": "x"}
    daemon.environment["PYTHONPATH"] = str(CLONE)
    daemon.start()
    archives = tmp_path / "archives"
    archives.mkdir()
    write_job(
        daemon,
        "module.py",
        """\
        SCHEDULE = "manual"
        ENVIRONMENT = {"OWN": {"env": "NAMED"}}
        import os, sys
        print("has", *sorted(os.environ))
        sys.exit(75)
        """,
    )
    write_job(
        daemon,
        "yaml.yaml",
        f"schedule: manual\nenvironment: {{OWN: {{env: NAMED}}}}\ninclude:\n- new_dir: made\n"
        f"  run: [sh, -c, 'env -0 > env']\nsave:\n- directory: {archives}\n",
    )
    (line,) = [line for line in run(daemon, "module")["output"] if line.startswith("has")]
    usual = {"HOME", "LANG", "PATH", "TMPDIR", "TZ"}
    worker = {name for name in line.split()[1:] if not name.startswith("LC_")}
    assert worker - usual == {"OWN", "NAMED", *(n for n in os.environ if n.startswith("AWS_"))} | {
        "AWS_PROFILE"
    }
    assert run(daemon, "yaml")["outcome"] == "success"
    with only_archive(archives) as archive:
        lines = archive.read("made/env").decode().split("\0")
    command = {each.partition("=")[0] for each in lines if each}
    command = {name for name in command if not name.startswith("LC_")}
    assert command - usual - {"PWD", "OLDPWD", "SHLVL", "_"} == {"OWN"}


def test_a_run_executes_what_was_checked_whatever_the_file_is_by_then(daemon: Daemon) -> None:
    write_job(daemon, "web.py", 'SCHEDULE = "manual"\nprint("good")\nraise SystemExit(75)\n')
    path = daemon.jobs / "web.py"
    path.chmod(0o666)
    path.write_text('SCHEDULE = "manual"\nprint("evil")\nraise SystemExit(75)\n')
    daemon.ctl("reload", check=False)
    assert "is writable by everybody" in daemon.request("GET", "/jobs/web")[1]["problem"]
    assert run(daemon, "web")["output"] == ["good"]


# What is left, and for whom


def test_nothing_is_for_others_whatever_the_umask(daemon: Daemon, tmp_path: Path) -> None:
    """State, archives and temporary files, while a run is on and afterwards."""
    daemon.stop()
    shutil.rmtree(daemon.state)
    archives, marks, temporary = tmp_path / "archives", tmp_path / "marks", tmp_path / "temporary"
    for each in (archives, marks, temporary):
        each.mkdir()
    daemon.environment["TMPDIR"] = str(temporary)
    daemon.start(program="import os, runpy; os.umask(0); runpy.run_module('storeletd', "
                 "run_name='__main__', alter_sys=True)")  # fmt: skip
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    write_job(
        daemon,
        "web.yaml",
        f"schedule: manual\ninclude:\n- new_dir: made\n"
        f"  run: 'umask > umask; touch {marks}/on; cat {gate}'\nsave:\n- directory: {archives}\n",
    )
    write_job(
        daemon,
        "spooled.py",
        f"""\
        import storelet
        SCHEDULE = "manual"
        with storelet.ZipBackup("spooled") as backup:
            with backup.include_new_dir("made") as d:
                open(f"{{d}}/file", "w").close()
            backup.save_to_directory({str(archives)!r})
        """,
    )
    assert run(daemon, "spooled")["outcome"] == "success"
    daemon.request("POST", "/jobs/web/runs")
    wait_for((marks / "on").exists, seconds=20)
    (own,) = temporary.iterdir()
    (made,) = own.iterdir()
    assert [each.stat().st_mode & 0o777 for each in (own, made)] == [0o700, 0o700]
    assert [len(each.name) for each in (own, made)] == [len("storelet-") + 16, len("storelet-") + 8]
    gate.write_text("")
    wait_for(lambda: len(list(archives.iterdir())) == 2, what="the archive")
    assert {each.stat().st_mode & 0o777 for each in archives.iterdir()} == {0o600}
    assert daemon.state.stat().st_mode & 0o777 == 0o700
    files = list(daemon.state.iterdir())
    assert {"history.sqlite", "history.sqlite-wal", "lock"} <= {each.name for each in files}
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
    assert daemon.socket.stat().st_mode & 0o777 == 0o660


# Secrets


class _Refusing(BaseHTTPRequestHandler):
    """A store that refuses everything and says back what it was sent, as some do."""

    def _refuse(self) -> None:
        said = f"{self.path} {self.headers['authorization']} {self.headers['x-amz-security-token']}"
        code = "SignatureDoesNotMatch"
        body = f"<Error><Code>{code}</Code><Message>no: {said}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _refuse  # noqa: N815 - http.server's names


@pytest.fixture
def refusing() -> Iterator[str]:
    with answering(_Refusing) as place:
        yield place


class Planted:
    """Secrets, each one of its own, so that what is found says where it came from."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def plant(self, what: str) -> str:
        self.words.append(f"PLANTED{len(self.words):02}{what.upper()}")
        return self.words[-1]

    def found_in(self, *texts: str | bytes) -> list[str]:
        data = [each.encode(errors="replace") if isinstance(each, str) else each for each in texts]
        return [word for word in self.words if any(word.encode() in each for each in data)]


def secret_job(planted: Planted, directory: Path, store: str, gate: Path) -> str:
    """Write a job with secrets in every place that may hold one, and stores that fail."""
    file = directory / "secret"
    file.write_text(planted.plant("file"))
    stores = {
        "refused": "http://127.0.0.1:1",
        "forbidden": f"http://{store}",
        "tls": f"https://{store}",
    }
    saves = ""
    for name, endpoint in stores.items():
        saves += (
            f"- s3: {name}\n  endpoint_url: {endpoint}\n  region_name: us-east-1\n"
            f"  access_key: {planted.plant(name + 'access')}\n"
            f"  secret_key: {planted.plant(name + 'secret')}\n"
            f"  aws_session_token: {planted.plant(name + 'token')}\n"
        )
    for name, ending in (("newline", "\\nX: y"), ("control", "\\x01"), ("foreign", "\\u00fc")):
        place = "127.0.0.1:1" if name == "foreign" else store  # what comes back is spelled anew
        saves += (
            f"- s3: {name}\n  endpoint_url: http://{place}\n  region_name: us-east-1\n"
            f'  access_key: "{planted.plant(name + "access")}{ending}"\n'
            f'  secret_key: "{planted.plant(name + "secret")}{ending}"\n'
            f'  aws_session_token: "{planted.plant(name + "token")}{ending}"\n'
        )
    references = ("{env: PLANTED_KEY}", f"{{file: {file}}}", "{credential: key}")
    for number, reference in enumerate(references):
        saves += (
            f"- s3: by-reference-{number}\n  endpoint_url: http://{store}\n"
            f"  region_name: us-east-1\n  access_key: {reference}\n  secret_key: {reference}\n"
        )
    return (
        f"schedule: manual\nencryption: {{password: {planted.plant('password')}}}\nenvironment:\n"
        f"  SITE_PASSWORD: {planted.plant('variable')}\n"
        f"  BY_FILE: {{file: {file}}}\n  BY_CREDENTIAL: {{credential: key}}\n"
        f"include:\n- new_dir: made\n"
        f"  run: 'touch file; test -e {gate} && cat {gate}; true'\nsave:\n{saves}"
    )


def said_by_all_verbs(daemon: Daemon, path: Path, run_id: int) -> list[str]:
    """Return what each verb says of a job and its run, for people and as JSON."""
    job, number = path.stem, str(run_id)
    verbs = [
        *(("list",), ("status",), ("status", job), ("show", job), ("history",), ("next", job)),
        *(("history", "--run", number), ("logs", job), ("logs", job, "--run", number)),
        *(("validate", "--jobs", str(path.parent)), ("reload",), ("cancel", job), ("schema",)),
    ]
    said = [daemon.ctl(*verb, *more, check=False) for verb in verbs for more in ((), ("--json",))]
    said.append(daemon.ctl("run-now", "-v", job, check=False))
    return [each.stdout + each.stderr for each in said]


def test_secrets_are_written_nowhere(daemon: Daemon, tmp_path: Path, refusing: str) -> None:
    """Whatever fails: the connection, the key, the header, TLS, the code."""
    planted = Planted()
    credentials, temporary = tmp_path / "credentials", daemon.socket.parent / "temporary"
    credentials.mkdir()
    temporary.mkdir()
    (credentials / "key").write_text(planted.plant("credential"))
    of_daemon = planted.plant("env")
    daemon.stop()
    daemon.environment |= {"PLANTED_KEY": of_daemon, "CREDENTIALS_DIRECTORY": str(credentials)}
    daemon.environment |= {"TMPDIR": str(temporary), "AWS_MAX_ATTEMPTS": "1"}
    daemon.start()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = secret_job(planted, tmp_path, refusing, gate)
    path = write_job(daemon, "web.yaml", text)
    run_id = daemon.request("POST", "/jobs/web/runs")[1]["run"]["id"]
    wait_for(lambda: any("cat" in each.split()[1:2] for each in daemon.processes()), seconds=20)
    look_at_processes(daemon, planted, of_daemon)
    everything = [each.read_bytes() for each in temporary.rglob("*") if each.is_file()]
    gate.write_text("")
    gate.unlink()
    write_job(
        daemon,
        "code.py",
        f"""\
        SCHEDULE = "manual"
        import storelet
        def connect(**keys):
            raise RuntimeError("no such store")
        with storelet.ZipBackup("code", destination=storelet.S3("forbidden",
                "{planted.plant("access")}", "{planted.plant("secret")}",
                endpoint_url="http://{refusing}", region_name="us-east-1")) as backup:
            connect(key="{planted.plant("code")}")
        """,
    )

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = daemon.request("GET", f"/runs/{run_id}")[1]
        return found if found["state"] == "finished" else None

    done = wait_for(look, seconds=60)
    assert done["outcome"] == "failed"
    for name in ("refused", "forbidden", "tls", "newline", "by-reference-2"):
        assert name in done["message"]
    code = run(daemon, "code")
    assert code["message"] == "RuntimeError: no such store"
    assert any("line 8, in <module>" in line for line in code["output"]), code["output"]
    broken = text.replace("schedule: manual", "schedule: 1\npassword: x").replace("s3:", "s4:")
    everything += [each.encode() for each in said_by_all_verbs(daemon, path, run_id)]
    everything += [each.encode() for each in said_by_all_verbs(daemon, daemon.jobs / "code.py", 1)]
    broken_path = write_job_file(daemon, "broken.yaml", broken)
    for verb in (("list",), ("status", "--json"), ("validate", str(broken_path))):
        shown = daemon.ctl(*verb, check=False)
        everything.append((shown.stdout + shown.stderr).encode())
    everything += [each.read_bytes() for each in daemon.state.iterdir()]
    everything += [daemon.log().encode()]
    assert len(everything) > 60
    found = planted.found_in(*everything)
    assert found == [], "\n".join(
        f"{word}: …{each[max(0, at - 150) : at + 60]!r}"
        for word in found
        for each in everything
        if (at := each.find(word.encode())) >= 0
    )


def look_at_processes(daemon: Daemon, planted: Planted, of_daemon: str) -> None:
    """While a run is on: titles, environments as they began, limits of core dumps."""
    processes = [Path("/proc", each.split()[0]) for each in daemon.processes()]
    assert len(processes) >= 4  # keeper, worker, shell, cat
    limits = [
        (each / "limits").read_text() for each in (*processes, Path("/proc", str(daemon.pid)))
    ]
    for each in limits:
        (line,) = [line for line in each.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"]
    assert planted.found_in(*((each / "cmdline").read_bytes() for each in processes)) == []
    for each in processes:
        name, began = (each / "cmdline").read_bytes(), (each / "environ").read_bytes()
        if b"storeletd" in name:  # the keeper and the worker: what {env: …} asks for, no more
            assert planted.found_in(began) == [of_daemon]
        else:  # commands: what the job's environment has, and nothing of destinations
            found = {word[9:] for word in planted.found_in(began)}
            assert found == {"FILE", "VARIABLE", "CREDENTIAL"}


# Terminals


# Colours, CSI of eight bits, a bell, a line overwritten, a link (OSC 8), a title, bidi controls.
STEERING = (
    "\x1b[31m \x9b2J \a \r \x1b]8;;http://evil\x1b\\ \x1b]0;t\a \u202e \u2066 \u200f \x7f \x08"
)


def steering_lines(text: str) -> list[str]:
    """Return what of a text could steer a terminal, with what is before it."""
    return [
        text[max(0, at - 80) : at + 1]
        for at, each in enumerate(text)
        if not each.isprintable() and each not in "\n\t"
    ]


def test_storeletctl_prints_nothing_that_steers_a_terminal(daemon: Daemon, tmp_path: Path) -> None:
    """Whatever has a hostile name or says hostile things: every verb, for people and as JSON."""
    tree = tmp_path / f"tree {STEERING.replace('/', '')}"
    tree.mkdir()
    (tree / f"file{STEERING.replace('/', '')}").write_text("x")
    broken = b"raw \x9b\xff".decode("utf-8", "surrogateescape")
    (tree / broken).write_text("x")
    (tree / f"loop{STEERING.replace('/', '')}").mkdir()
    archives = tmp_path / f"archives{STEERING.replace('/', '')}"
    archives.mkdir()
    path = write_job(
        daemon,
        "web.py",
        f"""\
        import logging, storelet, sys
        SCHEDULE = "manual"
        ENVIRONMENT = {{"NAME": {STEERING!r}}}
        print({STEERING!r}); print({STEERING!r}, file=sys.stderr)
        logging.getLogger().warning({STEERING!r})
        sys.stdout.buffer.write(b"\\x9b31m\\xff\\n")
        with storelet.ZipBackup("web") as backup:
            backup.include_directory({str(tree)!r}, name="x")
            backup.include_directory({str(tree)!r}, name="x")
            backup.save_to_directory({str(archives)!r})
        """,
    )
    write_job(
        daemon,
        "fails.py",
        f"SCHEDULE = 'manual'\nimport storelet\n"
        f"raise storelet.StoreletError({STEERING!r}, hint={STEERING!r})\n",
    )
    write_job_file(daemon, f"bad{STEERING.replace('/', '')}.yaml", f'"{STEERING!r}": 1\n')
    write_job_file(daemon, "worse.yaml", f"schedule: {STEERING!r}\n{STEERING!r}: 1\n")
    daemon.ctl("reload", check=False)
    done = run(daemon, "web")
    assert done["outcome"] == "partial", done
    assert run(daemon, "fails")["outcome"] == "failed"
    said = said_by_all_verbs(daemon, path, done["id"])
    said += said_by_all_verbs(daemon, daemon.jobs / "fails.py", done["id"] + 1)
    for verb in (
        ("show", STEERING),
        ("run-now", STEERING),
        ("cancel", STEERING),
        ("logs", STEERING),
    ):
        each = daemon.ctl(*verb, check=False)
        said.append(each.stdout + each.stderr)
    for verb in (("calendar", STEERING), ("validate", f"/{STEERING}"), ("history", STEERING)):
        each = daemon.ctl(*verb, check=False)
        said.append(each.stdout + each.stderr)
    assert sum(r"\x1b" in each for each in said) > 10  # it was there to be shown
    assert [line for each in said for line in steering_lines(each)] == []
    assert steering_lines(daemon.log()) == []
