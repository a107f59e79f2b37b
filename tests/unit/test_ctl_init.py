"""The verb init: questions on a real terminal, options without one, and what it leaves behind."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from storeletd.ctl.deposit import write_together
from storeletd.ctl.draft import AnswerError, Bucket, Draft, read_bucket, read_key
from storeletd.jobfile import parse_job, read_job
from tests.helpers import ACCESS_KEY, CLONE, SECRET_KEY, Daemon
from tests.helpers import Bucket as Store
from tests.scripts import AS_PLAIN_USER, ctl, run_script
from tests.servers import STRANGER


class Terminal:
    """`storeletctl init` on a terminal of 80 columns that is its own, keyboard and all."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._master, self._slave = pty.openpty()
        os.set_inheritable(self._slave, True)
        # A session's leader that opens a terminal has it for its own; ^C works by that.
        opening = 'exec "$@" <"$TTY" >"$TTY" 2>"$TTY"'
        command = ["env", "--default-signal=INT", sys.executable, "-m", "storeletd.ctl", "init"]
        self._process = subprocess.Popen(
            ["sh", "-c", opening, "sh", *command, *arguments],
            cwd=CLONE,
            env={
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "TZ": "Europe/Berlin",
                "TERM": "xterm",
                "TTY": os.ttyname(self._slave),
                "COLUMNS": "80",
                "HOME": "/",
                **environment,
            },
            start_new_session=True,
        )
        self.shown = ""
        self._read = 0  # characters that were waited for

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait(30)
        os.close(self._slave)
        os.close(self._master)

    def wait_for(self, text: str) -> None:
        """Read until it shows a text that it has not shown before."""
        while (found := self.shown.find(text, self._read)) < 0:
            self._take()
        self._read = found + len(text)

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and type the answer."""
        self.wait_for(question)
        if "not shown" in question:
            self.wait_for(": ")
            time.sleep(0.2)  # what is typed before getpass has asked is thrown away
        os.write(self._master, f"{text}\n".encode())

    def interrupt(self, question: str) -> int:
        """Wait for a question, press ^C, and return the exit code.

        Python does not see one that comes between readline's prompt and its waiting, before anybody
        could have read the question; so it is pressed until it is seen.
        """
        self.wait_for(question)
        while self._process.poll() is None:
            os.write(self._master, b"\x03")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        return self.end()

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        while self._process.poll() is None or select.select([self._master], [], [], 0)[0]:
            self._take(0.2)
        return self._process.returncode

    def _take(self, seconds: float = 60) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            shown = os.read(self._master, 65536).decode(errors="replace")
            plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", shown)
            self.shown += plain
        else:
            assert seconds < 60, f"waited in vain; it shows:\n{self.shown}"


def contents(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def validate(path: Path) -> None:
    done = ctl("validate", "--jobs", str(path.parent))
    assert (done.returncode, done.stdout) == (0, f"{path}: ok\n")


# Asked on a terminal ------------------------------------------------------------------------------


def test_a_job_is_made_by_answering_and_what_is_wrong_can_be_answered_again(
    job_dir: Path, tree: Path, seaweedfs: Store
) -> None:
    other = tree.with_name("other.txt")
    other.write_text("other")
    with Terminal("--jobs", str(job_dir)) as terminal:
        terminal.answer("Directory or file to back up", str(tree / "nowhere"))
        terminal.wait_for("no such file or directory")
        terminal.answer("Directory or file to back up", str(tree))
        terminal.answer("One more", str(other))
        terminal.answer("One more", "")
        terminal.answer("Name of the job [tree]", "../website")
        terminal.wait_for("expected a job's name")
        terminal.answer("Name of the job [tree]", "website")
        terminal.answer("Where to", "s3://no-such-bucket/web")
        terminal.answer("URL of the store", str(seaweedfs.endpoint))
        terminal.answer("Region", "us-east-1")
        terminal.answer("Access key (not shown", seaweedfs.access_key)
        terminal.answer("Secret key (not shown", seaweedfs.secret_key)
        terminal.wait_for("no such bucket: no-such-bucket")
        terminal.answer("(again, write, stop) [again]", "")
        terminal.answer("[s3://no-such-bucket/web/]", f"s3://{seaweedfs.name}/web")
        terminal.answer(f"[{seaweedfs.endpoint}]", "")
        terminal.answer("[us-east-1]", "")
        terminal.answer("Access key (not shown; Enter: as before)", STRANGER)
        terminal.answer("Secret key (not shown; Enter: as before)", "")
        terminal.wait_for("the key may not write")
        terminal.answer("(again, write, stop) [again]", "again")
        terminal.answer("Where to", "")
        terminal.answer("URL of the store", "")
        terminal.answer("Region", "")
        terminal.answer("Access key (not shown; Enter: as before)", seaweedfs.access_key)
        terminal.answer("Secret key (not shown; Enter: as before)", "")
        terminal.answer("When", "25:61")
        terminal.wait_for("expected HH:MM")
        terminal.answer("When", "")
        assert terminal.end() == 0
    assert re.search(r"  next \w{3} \d{4}-\d\d-\d\d 02:30 CES?T", terminal.shown)
    assert seaweedfs.access_key not in terminal.shown
    assert seaweedfs.secret_key not in terminal.shown
    path, keys = job_dir / "website.yaml", job_dir / "keys"
    assert contents(job_dir) == [
        "keys",
        "keys/website-access-key",
        "keys/website-secret-key",
        "website.yaml",
    ]
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, keys, *keys.iterdir())]
    assert modes == [0o600, 0o700, 0o600, 0o600]
    assert seaweedfs.secret_key not in path.read_text()
    validate(path)
    assert f'"arn:aws:s3:::{seaweedfs.name}/web/website_*"' in terminal.shown
    assert f"storeletctl run {path}" in terminal.shown
    assert max(map(len, terminal.shown.split("Next:")[0].splitlines())) <= 80 + len(str(tree))
    assert seaweedfs.keys() == []
    done = ctl("run", str(path), "--json")
    (ran,) = json.loads(done.stdout)["runs"]
    assert (done.returncode, ran["outcome"]) == (0, "success")
    (key,) = seaweedfs.keys()
    listed = ctl("files", "website", "--jobs", str(job_dir), "--json")
    names = {each["name"] for each in json.loads(listed.stdout)["members"]}
    assert names > {str(each).lstrip("/") for each in (tree / "hello.txt", other)}
    assert key.startswith("web/website_")


QUESTIONS = [
    ("Directory or file to back up", "{tree}"),
    ("One more", ""),
    ("Name of the job", "website"),
    ("Where to", "s3://{bucket}/"),
    ("URL of the store", "{endpoint}"),
    ("Region", "us-east-1"),
    ("Access key (not shown", "{key}"),
    ("Secret key (not shown", "{secret}"),
    ("When", "02:30"),
]


@pytest.mark.parametrize("last", range(len(QUESTIONS)), ids=[each[0] for each in QUESTIONS])
def test_an_interrupt_at_any_question_leaves_nothing(
    job_dir: Path, tree: Path, s3_server: Store, last: int
) -> None:
    said = {"tree": tree, "bucket": s3_server.name, "endpoint": s3_server.endpoint}
    said |= {"key": s3_server.access_key, "secret": s3_server.secret_key}
    new = job_dir / "new"
    with Terminal("--jobs", str(new)) as terminal:
        for question, answer in QUESTIONS[:last]:
            terminal.answer(question, answer.format_map(said))
        assert terminal.interrupt(QUESTIONS[last][0]) == 130
    assert terminal.shown.endswith("\nError: interrupted; nothing was written\n")
    assert contents(job_dir) == []
    assert s3_server.keys() == []


def test_a_place_that_is_not_there_yet_can_be_written_down_all_the_same_or_given_up(
    job_dir: Path, tree: Path, destination: Path
) -> None:
    arguments = ("website", "--include", str(tree), "--jobs", str(job_dir))
    for answer, code in [("stop", 10), ("write", 0)]:
        with Terminal(*arguments, "--schedule", "manual") as terminal:
            terminal.answer("Where to", str(destination / "usb"))
            terminal.wait_for("no such directory")
            terminal.answer("(again, write, stop) [again]", answer)
            assert terminal.end() == code
        assert contents(job_dir) == (["website.yaml"] if code == 0 else [])
    assert not (destination / "usb").exists()


def test_paths_are_completed_by_tab(job_dir: Path, tree: Path, destination: Path) -> None:
    (tree / "a directory").mkdir()
    arguments = ("website", "--to", str(destination), "--schedule", "manual")
    with Terminal(*arguments, "--jobs", str(job_dir)) as terminal:
        terminal.answer("Directory or file to back up", f"{tree}/a d\t")
        terminal.answer("One more", "")
        assert terminal.end() == 0
    job = yaml.safe_load((job_dir / "website.yaml").read_text())
    assert job["include"][0]["directory"] == str(tree / "a directory")


# Said by options ----------------------------------------------------------------------------------


def init(job_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return ctl("init", *arguments, "--jobs", str(job_dir), **environment)


def test_with_all_options_nothing_is_asked_not_even_on_a_terminal(
    job_dir: Path, tree: Path, destination: Path
) -> None:
    arguments = ("--include", str(tree), "--to", str(destination), "--schedule", "every 6h")
    with Terminal("website", *arguments, "--jobs", str(job_dir)) as terminal:
        assert terminal.end() == 0
    validate(job_dir / "website.yaml")


def test_by_options_keys_are_named_and_never_said(
    job_dir: Path, tree: Path, seaweedfs: Store, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(seaweedfs.secret_key + "\n")
    done = init(
        job_dir,
        "website",
        *("--include", str(tree), "--include", str(tree / "hello.txt")),
        *("--to", f"s3://{seaweedfs.name}/web/", "--endpoint-url", str(seaweedfs.endpoint)),
        *("--region", "us-east-1", "--schedule", "30 2 * * *", "--json"),
        *("--access-key", "env:S3_KEY", "--secret-key", f"file:{secret}"),
        S3_KEY=seaweedfs.access_key,
    )
    document = json.loads(done.stdout)
    path = job_dir / "website.yaml"
    assert (done.returncode, done.stderr) == (0, "")
    assert (document["job"], document["path"], document["keys"]) == ("website", str(path), [])
    assert [each["check"] for each in document["findings"]] == ["list", "write", "read", "delete"]
    assert document["policy"]["Statement"][0]["Resource"].endswith("/web/website_*")
    assert yaml.safe_load(path.read_text()) == {
        "schedule": "30 2 * * *",
        "include": [
            {"directory": str(tree), "preserve_paths": True},
            {"file": f"{tree}/hello.txt", "name": f"{tree}/hello.txt".lstrip("/")},
        ],
        "save": [
            {
                "s3": seaweedfs.name,
                "prefix": "web/",
                "endpoint_url": seaweedfs.endpoint,
                "region_name": "us-east-1",
                "access_key": {"env": "S3_KEY"},
                "secret_key": {"file": str(secret)},
            }
        ],
    }


@pytest.mark.parametrize(
    ("left_out", "named"),
    [("--include", "--include"), ("--to", "--to"), ("--schedule", "--schedule")],
)
def test_what_is_missing_where_nobody_can_be_asked_is_named(
    job_dir: Path, tree: Path, destination: Path, left_out: str, named: str
) -> None:
    given = {"--include": str(tree), "--to": str(destination), "--schedule": "manual"}
    words = [word for pair in given.items() if pair[0] != left_out for word in pair]
    done = init(job_dir, "website", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"and {named} not given" in done.stderr
    assert contents(job_dir) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--access-key", SECRET_KEY, "--secret-key", "env:X"], "expected env:NAME"),
        (["--access-key", "env:X"], "expected access_key and secret_key together"),
        (["--endpoint-url", "s3.example.org"], "expected a URL"),
        (["--schedule", "at night"], "expected"),
        (["--include", "/no/such/file"], "no such file"),
        (["--to", "ftp://host/"], "expected s3://BUCKET/PREFIX"),
        (["--to", "s3://"], "the name of the bucket is missing"),
        (["--to", "/tmp", "--region", "eu"], "--region goes with --to s3://"),
    ],
)
def test_what_cannot_be_is_said_and_no_key_with_it(
    job_dir: Path, tree: Path, arguments: list[str], said: str
) -> None:
    usual = ["--include", str(tree), "--to", "s3://my-bucket/", "--schedule", "manual"]
    done = init(job_dir, "website", *usual, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert SECRET_KEY not in done.stderr
    assert contents(job_dir) == []


@pytest.mark.parametrize(
    ("keys", "bucket_name", "code"),
    [
        ({"A": "AKIANOSUCHKEY", "S": SECRET_KEY}, None, 12),
        ({"A": ACCESS_KEY, "S": "wrong"}, None, 12),
        ({"A": ACCESS_KEY}, None, 12),
        ({"A": STRANGER, "S": SECRET_KEY}, None, 77),
        ({"A": ACCESS_KEY, "S": SECRET_KEY}, "no-such-bucket", 10),
    ],
)
def test_a_place_that_will_not_do_ends_it_and_nothing_is_written(
    job_dir: Path,
    tree: Path,
    seaweedfs: Store,
    keys: Mapping[str, str],
    bucket_name: str | None,
    code: int,
) -> None:
    done = init(
        job_dir,
        *("website", "--include", str(tree), "--schedule", "manual"),
        *("--to", f"s3://{bucket_name or seaweedfs.name}", "--region", "us-east-1"),
        *("--endpoint-url", str(seaweedfs.endpoint)),
        *("--access-key", "env:A", "--secret-key", "env:S", "--json"),
        **keys,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert json.loads(done.stderr)["error"].startswith("nothing was written: ")
    assert contents(job_dir) == []


# What is there stays ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".py"])
def test_no_job_is_overwritten(job_dir: Path, tree: Path, destination: Path, suffix: str) -> None:
    there = job_dir / f"website{suffix}"
    there.write_text("mine")
    usual = ["--include", str(tree), "--to", str(destination), "--schedule", "manual"]
    done = init(job_dir, "website", *usual)
    assert (done.returncode, there.read_text()) == (2, "mine")
    assert f"there is a job website already: {there}" in done.stderr


def test_files_are_written_together_or_not_at_all_and_over_none(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    key, job = jobs / "keys" / "key", jobs / "website.yaml"
    jobs.mkdir()
    job.write_text("mine")
    with pytest.raises(FileExistsError):
        write_together(jobs, [(key, "secret"), (job, "other")])
    assert (contents(jobs), job.read_text()) == (["website.yaml"], "mine")
    job.unlink()
    jobs.rmdir()
    with pytest.raises(UnicodeEncodeError):
        write_together(jobs, [(key, "secret"), (job, "\udc80")])
    assert not jobs.exists()
    write_together(jobs, [(key, "secret"), (job, "ours")])
    assert (key.read_text(), job.read_text()) == ("secret", "ours")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (jobs, key, job)] == [
        0o755,
        0o600,
        0o600,
    ]


def test_a_directory_where_jobs_cannot_be_written_is_said_before_anything_is_asked() -> None:
    script = AS_PLAIN_USER.replace("import os,", "import storeletd.ctl, storeletd.trust, os,") + (
        "import sys, storeletd.ctl.console\nstoreletd.ctl.main(['init', '--jobs', '/etc'])\n"
    )
    done = run_script(script, check=False)
    assert done.returncode == 77
    assert done.stderr.startswith("Error: cannot write to /etc")


def test_a_directory_that_the_daemon_would_refuse_is_said(job_dir: Path) -> None:
    job_dir.chmod(0o777)
    done = init(job_dir)
    assert (done.returncode, "writable by everybody" in done.stderr) == (78, True)


def test_the_daemon_takes_the_job_up_by_itself(
    daemon: Daemon, job_dir: Path, tree: Path, destination: Path
) -> None:
    done = ctl(
        *("--socket", str(daemon.socket), "init", "website", "--include", str(tree)),
        *("--to", str(destination), "--schedule", "manual", "--jobs", str(job_dir)),
    )
    assert done.returncode == 0
    assert "  storeletctl run-now website  " in done.stdout
    for _ in range(100):
        ran = ctl("--socket", str(daemon.socket), "run-now", "website")
        if ran.returncode != 4:  # it is seen within two seconds
            break
    assert ran.returncode == 0
    assert len(list(destination.iterdir())) == 1


# The draft ----------------------------------------------------------------------------------------


def test_what_is_commented_out_is_right_too(tmp_path: Path) -> None:
    draft = Draft(jobs=tmp_path, include=(str(tmp_path),), place=Bucket(name="b"))
    text = re.sub(r"^( *)#(?=\w)", r"\1", draft.text({}), flags=re.MULTILINE)
    assert text != draft.text({})
    job = parse_job(tmp_path / "website.yaml", text.encode())
    assert job.settings.keep is not None
    assert job.settings.encryption is not None
    assert job.settings.verify is not None


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "yes", "1.5", "a: b", "a#b", " #", "größe ✓", "-x", "{a}", '"q"', "\t"],
)
def test_any_path_is_read_back_as_it_is(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.mkdir()
    draft = Draft(jobs=tmp_path).with_include(f"{source}/")
    path = tmp_path / "website.yaml"
    path.write_text(draft.with_place(str(source)).with_name("website").text({}))
    settings = read_job(path).settings
    assert settings.include[0].model_dump()["directory"] == str(source)
    assert settings.save[0].model_dump()["directory"] == str(source)


def test_a_prefix_that_is_written_as_a_path_ends_with_a_slash() -> None:
    assert read_bucket("s3://my-bucket/web") == Bucket(name="my-bucket", prefix="web/")
    assert read_bucket("s3://my-bucket/") == Bucket(name="my-bucket")
    assert read_bucket("/mnt/nas") is None


def test_keys_are_not_shown_by_what_holds_them() -> None:
    assert SECRET_KEY not in repr(Bucket(name="b", access_key="a", secret_key=SECRET_KEY))
    with pytest.raises(AnswerError) as raised:
        read_key(SECRET_KEY)
    assert SECRET_KEY not in f"{raised.value!r} {raised.value.hint}"
