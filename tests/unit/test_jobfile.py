"""Job files: YAML and Python read into jobs, and everything that is said about bad ones."""

from __future__ import annotations

import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storeletd.jobfile import read_job
from storeletd.jobs import Job, JobFileError, JobProblem

GOOD = """\
schedule: 30 2 * * *
include: [{directory: /srv/www}]
save: [{directory: /mnt/backups}]
"""


KINDS = "directory, file, new_dir, command, postgresql, mariadb, mysql, sqlite, mongodb"


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "website.yaml"


def problems_of(path: Path) -> tuple[JobProblem, ...]:
    with pytest.raises(JobFileError) as raised:
        read_job(path)
    assert raised.value.exit_code == 78
    assert raised.value.problems
    for problem in raised.value.problems:
        assert problem.file == str(path)
        assert not problem.message.endswith(".")
    return raised.value.problems


def problems_in(path: Path, text: str) -> dict[tuple[str | None, int | None], str]:
    path.write_text(textwrap.dedent(text))
    return {(each.key, each.line): each.message for each in problems_of(path)}


def only_problem_in(path: Path, text: str) -> JobProblem:
    path.write_text(textwrap.dedent(text))
    problems = problems_of(path)
    assert len(problems) == 1, problems
    return problems[0]


def read(path: Path, text: str) -> Job:
    path.write_text(textwrap.dedent(text))
    return read_job(path)


# Good files


def test_yaml_job_is_named_after_its_file_and_knows_its_lines(path: Path) -> None:
    job = read(path, GOOD)
    assert (job.name, job.path, job.language) == ("website", str(path), "yaml")
    assert job.settings.schedule.texts == ("30 2 * * *",)
    assert job.lines == {"schedule": 1, "include": 2, "save": 3}
    assert job.source == GOOD
    assert job.describe()["save"]["from"] == f"{path}:3"


def test_path_of_a_job_is_absolute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(GOOD)
    monkeypatch.chdir(path.parent)
    assert read_job(Path("website.yaml")).path == str(path)


def test_byte_order_mark_and_windows_lines_are_fine(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert read_job(path).lines == {"schedule": 1, "include": 2, "save": 3}


def test_python_module_is_read_and_never_executed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "photos.py",
        f'''\
        """A backup."""
        import storelet_is_not_even_there
        open({str(tmp_path / "executed")!r}, "w")
        SCHEDULE = ["30 2 * * *", "every 6h"]
        TIMEZONE: str = "Europe/Berlin"
        TIMEOUT = 7200
        CATCH_UP = False
        OVERLAP = "queue"
        LOG_FILES = True
        ENVIRONMENT = {{
            "PGHOST": "/run/postgresql",
        }}
        ''',
    )
    job = read_job(path)
    assert (job.name, job.language) == ("photos", "python")
    assert job.settings.schedule.texts == ("30 2 * * *", "every 6h")
    assert job.settings.timezone.key == "Europe/Berlin"
    assert job.settings.timeout is not None
    assert job.settings.timeout.total_seconds() == 7200
    assert job.settings.catch_up is False
    assert job.settings.overlap == "queue"
    assert job.settings.log_files is True
    assert job.settings.environment == {"PGHOST": "/run/postgresql"}
    assert job.lines["schedule"] == 4
    assert job.describe()["environment"]["from"] == f"{path}:10"
    assert not (tmp_path / "executed").exists()


def test_module_may_have_constants_of_its_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "photos.py",
        """\
        SCHEDULE = "manual"
        LOG_FILE = "/var/log/photos.log"
        TIMEZONES = ["Europe/Berlin", "Europe/Paris"]
        ENVIRONMENTS = ("production", "staging")
        SCHEDULES = {"a": 1}
        INCLUDE = ["/srv"]
        KEEP = TIMES = compute()
        timeout = object()
        timezone = "Europe/Berlin"
        schedule = "never"
        if True:
            TIMEOUT = compute()
        def f():
            CATCH_UP = compute()
        """,
    )
    job = read_job(path)
    assert list(job.lines) == ["schedule"]
    assert job.settings.timeout is None


# All at once


def test_every_error_of_a_yaml_job_is_told_at_once_with_line_and_key(path: Path) -> None:
    found = problems_in(
        path,
        """\
        shedule: 30 2 * * *
        timezone: Europe/Berln
        colour: {last: 3}
        timeout: soon
        catch_up: maybe
        overlap: wait
        log_files: 1
        include:
          - directory: srv/www
            exclude: "*.tmp"
            excludes: ["*.tmp"]
          - file: /etc/fstab
            exclude: [a]
          - new_dir: ../database
          - directry: /srv
          - /srv/www
          - directory: /a
            file: /b
            name: on
          - new_dir: database
            run: [nice, -n, 10, pg_dump]
        save:
          - s3: s3://my-bucket/web
            regionname: eu-central-1
            upload: {StorageClas: STANDARD_IA}
          - directory: backups
          - s3: my-bucket
            access_key: AKIA
        environment: {1A: x, PORT: 5432}
        """,
    )
    assert found.pop(("timezone", 2)).endswith("did you mean Europe/Berlin?")
    assert found.pop(("timeout", 4)).startswith('"soon"')
    assert found == {
        ("shedule", 1): "unknown key, did you mean schedule?",
        ("colour", 3): "unknown key",
        ("catch_up", 5): "expected true, false or {max_late: DURATION}",
        ("overlap", 6): "expected skip or queue",
        ("log_files", 7): "expected auto, true or false",
        ("include[0].directory", 9): "expected an absolute path, such as /srv/www",
        ("include[0].exclude", 10): "expected a list",
        ("include[0].excludes", 11): "unknown key, did you mean exclude?",
        ("include[1].exclude", 13): "goes only with directory",
        ("include[2].new_dir", 14): "expected a name inside the archive: a relative path without"
        " `..`",
        ("include[2].run", 14): "missing",
        ("include[3].directry", 15): "unknown key, did you mean directory?",
        ("include[4]", 16): f"expected a mapping with one of {KINDS}",
        ("include[5].file", 18): f"expected exactly one of {KINDS} in an item",
        ("include[5].name", 19): 'expected text, but YAML reads on as true or false: write "on"',
        ("include[6].run[2]", 21): 'expected text, but YAML reads 10 as a number: write "10"',
        ("save[0].s3", 23): "expected the name of a bucket alone; a path goes into `prefix`",
        ("save[0].regionname", 24): "unknown key, did you mean region_name?",
        ("save[0].upload.StorageClas", 25): "unknown key, did you mean StorageClass?",
        ("save[1].directory", 26): "expected an absolute path, such as /srv/www",
        ("save[2].secret_key", 27): "expected access_key and secret_key together, or neither",
        ("environment.1A", 29): "expected the name of a variable: letters, digits and `_`",
        ("environment.PORT", 29): "expected text, or one of {credential: NAME}, {env: NAME},"
        " {file: PATH}: put it in quotes",
    }


def test_every_error_of_a_module_is_told_at_once(tmp_path: Path) -> None:
    found = problems_in(
        tmp_path / "photos.py",
        """\
        import os
        SCHEDUEL = "30 2 * * *"
        TIMEOUTS = "2h"
        CATCH_UP = os.environ["X"]
        ENVIRONMENT = {"A": 5}
        TIMEZONE, X = "Europe/Berlin", 1
        OVERLAP = "wait"
        OVERLAP = "skip"
        LOG_FILES += "x"
        """,
    )
    literal = "expected one assignment of a literal value"
    assert found.pop(("SCHEDULE", None)).startswith("missing")
    assert found.pop(("ENVIRONMENT.A", 5)).startswith("expected text")
    assert found == {
        ("SCHEDUEL", 2): "unknown setting, did you mean SCHEDULE?",
        ("TIMEOUTS", 3): "unknown setting, did you mean TIMEOUT?",
        ("CATCH_UP", 4): literal,
        ("TIMEZONE", 6): literal,
        ("OVERLAP", 8): "a second time: it is in line 7 already",
        ("LOG_FILES", 9): literal,
    }


def test_missing_settings_are_told_with_an_example(path: Path) -> None:
    path.write_text("overlap: skip\n")
    problems = {each.key: each for each in problems_of(path)}
    assert set(problems) == {"schedule", "include", "save"}
    assert "schedule: manual is the way" in problems["schedule"].message
    assert problems["save"].hint
    assert "my-bucket" in problems["save"].hint


def test_module_without_schedule_is_told_how_to_say_manual(tmp_path: Path) -> None:
    problem = only_problem_in(tmp_path / "photos.py", "print('hello')\n")
    assert problem.key == "SCHEDULE"
    assert 'SCHEDULE = "manual" is the way to say' in problem.message


@pytest.mark.parametrize("name", ["schedule", "Schedule", "scheduel"])
def test_schedule_of_a_module_that_is_not_in_capitals_is_pointed_at(
    tmp_path: Path, name: str
) -> None:
    found = problems_in(tmp_path / "photos.py", f'import os\n{name} = "manual"\ntimeout = 5\n')
    assert found.pop(("SCHEDULE", None)).startswith("missing")
    assert found == {(name, 2): "unknown setting, did you mean SCHEDULE?"}


def test_unknown_key_far_from_all_is_told_the_known_ones(path: Path) -> None:
    problem = only_problem_in(path, GOOD + "colour: {last: 3}\n")
    assert (problem.line, problem.key, problem.message) == (4, "colour", "unknown key")
    assert "schedule, timezone, include" in str(problem.hint)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("schedule: 0 0 30 2 *", "schedule"),
        ("schedule: 30 2 * *", "schedule"),
        ("schedule: [30 2 * * *, manual]", "schedule"),
        ("schedule: {cron: 30 2 * * *}", "schedule"),
        ("include: {directory: /srv}", "include"),
        ("include: []", "include"),
        ("include: [{new_dir: a, run: []}]", "include[0].run"),
        ("include: [{new_dir: a, run: ' '}]", "include[0].run"),
        ("include: [{new_dir: a/../b, run: x}]", "include[0].new_dir"),
        ("include: [{new_dir: /a, run: x}]", "include[0].new_dir"),
        ("include: [{directory: /a, name: ../b}]", "include[0].name"),
        ("include: [{directory: /a, exclude: ['[z-a]']}]", "include[0].exclude[0]"),
        ("include: [{directory: /a, exclude: ['!']}]", "include[0].exclude[0]"),
        (
            "include: [{directory: /a, exclude_if_present: [a/b]}]",
            "include[0].exclude_if_present[0]",
        ),
        ("include: [{directory: /a, preserve_paths: 1}]", "include[0].preserve_paths"),
        ('include: [{directory: "/a\\0b"}]', "include[0].directory"),
        ("include: [{}]", "include[0]"),
        ("save: [{directory: ~/backups}]", "save[0].directory"),
        ("save: [{s3: b, endpoint_url: s3.example.org}]", "save[0].endpoint_url"),
        ("save: [{s3: b, verify: 0}]", "save[0].verify"),
        ("save: [{s3: b, config: {}}]", "save[0].config"),
        ("save: [{s3: b, upload: STANDARD_IA}]", "save[0].upload"),
        ("save: [{s3: b, secret_key: x}]", "save[0].secret_key"),
        ("save: [{s3: b, aws_session_token: x}]", "save[0].aws_session_token"),
        ("save: [{s3: b, access_key: {}, secret_key: x}]", "save[0].access_key"),
        ("timeout: -1h", "timeout"),
        ("timeout: 0", "timeout"),
        ("reuse: 1", "reuse"),
        ("reread: 23h", "reread"),
        ("change_detection: {ctim: false}", "change_detection.ctim"),
        ("change_detection: {inode: 0}", "change_detection.inode"),
        ("timezone: Europe", "timezone"),
        ("timezone: ../../etc/passwd", "timezone"),
        ("environment: [A=b]", "environment"),
        ("environment: {A: {env: B, file: /c}}", "environment.A"),
    ],
)
def test_bad_value_is_one_problem_at_its_key(path: Path, text: str, key: str) -> None:
    values = [line for line in GOOD.splitlines() if line.split(":")[0] != text.split(":")[0]]
    problem = only_problem_in(path, "\n".join([*values, text]))
    assert problem.key == key
    assert problem.line == len(values) + 1


def test_secret_is_never_shown_whatever_is_wrong_with_it(path: Path) -> None:
    path.write_text(
        GOOD
        + """\
environment: {1PASSWORD: hunter2, PASSWORD: 0777123, TOKEN: [hunter2]}
password: hunter2
save:
  - s3: my-bucket
    access_key: {creds: hunter2}
    secret_key: 777123
    aws_session_token: {credential: ../hunter2}
    secretkey: hunter2
  - s3: my-bucket
    access_key: 0777123
    secret_key: [hunter2]
"""
    )
    for problem in problems_of(path):
        assert "hunter2" not in repr(problem)
        assert "777123" not in repr(problem)


def test_url_with_a_password_is_refused_without_showing_it(path: Path) -> None:
    text = GOOD + "save: [{s3: b, endpoint_url: 'http://me:hunter2@s3.example.org/x'}]\n"
    problem = only_problem_in(path, text.replace("save: [{directory: /mnt/backups}]\n", ""))
    assert problem.key == "save[0].endpoint_url"
    assert "without a user and password: use access_key and secret_key" in problem.message
    assert "hunter2" not in repr(problem)


@pytest.mark.parametrize(
    "url", ["https://s3.example.org", "http://[::1]:9000", "https://s3.example.org/a@b?c=@"]
)
def test_url_may_have_a_port_and_a_path(path: Path, url: str) -> None:
    assert read(
        path,
        f"""\
        schedule: manual
        include: [{{directory: /srv/www}}]
        save: [{{s3: b, endpoint_url: "{url}"}}]
        """,
    )


# What YAML does to values


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("12:30", "a number in base 60"),
        ("0777", "a number other than it looks"),
        ("1e3", None),
        ("2024-01-31", "a date"),
        ("on", "true or false"),
        ("5", "a number"),
        ("2.50", "a number"),
        ("", "empty"),
        ("~", "empty"),
        ("!!binary aGk=", "tag"),
        ("!include x", "tag"),
    ],
)
def test_what_yaml_reads_as_no_text_is_told_so(path: Path, value: str, said: str | None) -> None:
    text = f"schedule: manual\nsave: [{{directory: /x}}]\ninclude:\n- file: /a\n  name: {value}\n"
    if said is None:
        assert read(path, text)
        return
    problem = only_problem_in(path, text)
    assert (problem.key, problem.line) == ("include[0].name", 5)
    assert said in problem.message


@pytest.mark.parametrize("value", ["yes", "on", "True"])
def test_true_may_be_written_as_yaml_has_it(path: Path, value: str) -> None:
    assert read(path, GOOD + f"catch_up: {value}\n").settings.catch_up is True
    assert read(path, GOOD + "catch_up: off\n").settings.catch_up is False


def test_keys_are_what_is_written_even_where_yaml_has_another_meaning(path: Path) -> None:
    job = read(path, GOOD + "environment: {NO: a, on: b, Y: c}\n")
    assert job.settings.environment == {"NO": "a", "on": "b", "Y": "c"}
    problem = only_problem_in(path, GOOD + "on: 5\n")
    assert (problem.key, problem.message) == ("on", "unknown key")


def test_seconds_may_be_a_bare_number_but_base_60_is_refused(path: Path) -> None:
    timeout = read(path, GOOD + "timeout: 90\n").settings.timeout
    assert timeout is not None
    assert timeout.total_seconds() == 90
    assert only_problem_in(path, GOOD + "timeout: 1:30\n").key == "timeout"


def test_duplicate_keys_are_errors_at_every_level(path: Path) -> None:
    found = problems_in(path, GOOD + "timeout: 1h\nenvironment: {A: b, A: c}\ntimeout: 2h\n")
    assert found == {
        ("environment.A", 5): "a second time: it is in line 5 already",
        ("timeout", 6): "a second time: it is in line 4 already",
    }


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("schedule: @daily\n", 1, "quotes"),
        ("a: 1\nschedule: */10 * * * *\n", 2, "quotes"),
        ("include:\n- directory: /a\n  exclude: [*.tmp]\n", 3, "quotes"),
        ("include:\n\t- directory: /a\n", 2, "spaces"),
        ("a: b: c\n", 1, None),
        ('a: "x\n', 1, None),
        ("a: [b\n", 1, None),
        ("---\na: 1\n---\nb: 2\n", 3, None),
        ("a: ü\nb: \x01\n", 2, None),
    ],
)
def test_yaml_syntax_error_has_its_line(path: Path, text: str, line: int, hint: str | None) -> None:
    problem = only_problem_in(path, text)
    assert problem.line == line
    assert problem.message.startswith("no valid YAML: ")
    assert (hint or "") in (problem.hint or "")


def test_anchors_and_aliases_are_refused(path: Path) -> None:
    path.write_text("a: &x [1]\nb: *x\n")
    assert [each.line for each in problems_of(path)] == [1, 2]
    path.write_text("schedule: *daily\n")
    assert "quotes" in str(problems_of(path)[0].hint)


def test_alias_bomb_and_deep_nesting_are_refused_at_once(path: Path) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    problems_in(path, bomb)
    assert only_problem_in(path, "[" * 100).message == "nested too deeply"
    assert "nest" in only_problem_in(path, "[" * 500_000).message  # by PyYAML 6.0.4 itself
    problems_in(path.with_suffix(".py"), "SCHEDULE = " + "[" * 5_000)
    problems_in(path.with_suffix(".py"), "SCHEDULE = " + "-" * 100_000 + "1")


BOMBS = {
    "flow sequences": "a: " + "[" * 500_000,
    "flow mappings": "a: " + "{a: " * 200_000,
    "block sequences": "- " * 300_000,
    "complex keys": "? " * 300_000,
    "duplicate keys": "a: 1\n" * 150_000,
    "unknown keys": "".join(f"key{number}: 1\n" for number in range(20_000)),
    "anchors": "a: [&a 1" + ", *a" * 150_000 + "]",
    "laughs": "a0: &a0 [x, x]\n"
    + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(99)),
    "merge keys": GOOD + "<<: {timeout: 1h}\n",
    "merged aliases": "a: &a {timeout: 1h}\n<<: [*a, *a]\n" + GOOD,
    "documents": "---\n" * 200_000,
    "one long key": GOOD + "x" * 900_000 + ": 1\n",
    "a huge number": GOOD + "timeout: " + "9" * 900_000 + "\n",
    "a huge number in base 16": GOOD + "timeout: 0x" + "f" * 900_000 + "\n",
    "a huge number in base 60": GOOD + "timeout: 1" + ":59" * 200_000 + "\n",
    "a number beyond any time": GOOD + "timeout: 9999999999999999999\n",
    "an endless duration": GOOD + "reread: 99999999999999999999d\n",
    "an endless interval": GOOD.replace("30 2 * * *", "every 99999999999999999999d"),
    "an endless fraction": GOOD + "timeout: " + "9" * 900_000 + ".0\n",
    "a long schedule": GOOD.replace("30 2", "1," * 300_000 + "99 2"),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_bombs_are_problems_and_few_of_them(path: Path, text: str) -> None:
    """Quick, too: none of them makes anything larger or deeper than it is itself."""
    assert len(text) < 1 << 20
    path.write_text(text)
    with pytest.raises(JobFileError) as caught:
        read_job(path)
    assert 1 <= len(caught.value.problems) <= 51
    assert max(len(str(problem)) for problem in caught.value.problems) < 1_000


MODULE_BOMBS = {
    "parentheses": "SCHEDULE = " + "(" * 100_000,
    "lists": "SCHEDULE = " + "[" * 150 + "]" * 150,
    "signs": "SCHEDULE = " + "-" * 100_000 + "1",
    "few signs": "SCHEDULE = " + "-" * 900 + "1",
    "sums": "SCHEDULE = " + "1+" * 100_000 + "1",
    "few sums": "SCHEDULE = " + "1+" * 900 + "1",
    "attributes": "SCHEDULE = a" + ".a" * 100_000,
    "calls": "f" + "()" * 100_000,
    "lambdas": "SCHEDULE = " + "lambda: " * 50_000 + "1",
    "elifs": "if 1: pass\n" + "elif 1: pass\n" * 50_000,
    "blocks": "\n".join(" " * n + "if 1:" for n in range(500)),
    "powers": 'SCHEDULE = "manual"\nTIMEOUT = 10**10**10',
    "repetitions": 'SCHEDULE = "x" * 10**12',
    "a huge number": "TIMEOUT = " + "9" * 900_000,
    "a huge number in base 16": 'SCHEDULE = "manual"\nTIMEOUT = 0x' + "f" * 900_000,
    "a huge negative number": 'SCHEDULE = "manual"\nTIMEOUT = -0x' + "f" * 900_000,
    "infinity": 'SCHEDULE = "manual"\nTIMEOUT = 1e999',
    "a complex number": 'SCHEDULE = "manual"\nTIMEOUT = 1 + 2j',
    "keys of no kind": 'SCHEDULE = "manual"\nENVIRONMENT = {1: "a", (1, 2): "b", None: "c"}',
    "a list as a key": "SCHEDULE = {[]: 1}",
    "targets": "(" + "a," * 200_000 + ") = 1",
    "misspelled names": "".join(f"TIMEOUT{n}X = 1\n" for n in range(3_000)),
}


@pytest.mark.parametrize("text", MODULE_BOMBS.values(), ids=MODULE_BOMBS)
def test_bombs_in_modules_are_problems_and_few_of_them(tmp_path: Path, text: str) -> None:
    """In a thread, whose stack is smaller, as the daemon reads them."""
    path = tmp_path / "job.py"
    path.write_text(text)
    with ThreadPoolExecutor(1) as threads, pytest.raises(JobFileError) as caught:
        threads.submit(read_job, path).result()
    assert 1 <= len(caught.value.problems) <= 51
    assert max(len(str(problem)) for problem in caught.value.problems) < 1_000


def test_python_object_tags_construct_nothing(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    problems_in(path, GOOD + f"timezone: !!python/object/apply:os.mkdir [{target}]\n")
    assert not target.exists()


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "~\n"])
def test_empty_file_is_told_what_is_expected(path: Path, text: str) -> None:
    assert only_problem_in(path, text).message == "empty: expected schedule, include and save"


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "5\n"])
def test_file_that_is_no_mapping_is_told_so(path: Path, text: str) -> None:
    assert only_problem_in(path, text).message == "expected settings, such as `schedule: manual`"


def test_python_syntax_error_has_its_line_and_shows_no_code(tmp_path: Path) -> None:
    problem = only_problem_in(tmp_path / "photos.py", "SCHEDULE = 'manual'\nKEY = 'hunter2\n")
    assert problem.line == 2
    assert problem.message.startswith("no valid Python: ")
    assert "hunter2" not in repr(problem)
    problems_in(tmp_path / "photos.py", "SCHEDULE = 'a\0'")


# The file itself


@pytest.mark.parametrize("name", ["website.yaml", "website.py"])
def test_file_that_is_not_utf8_is_told_so_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"# one\n# gr\xf6\xdfe\n")
    problem = problems_of(path)[0]
    assert (problem.line, problem.message) == (2, "not UTF-8 text")


def test_file_may_have_a_mebibyte_and_no_more(path: Path) -> None:
    filling = "#" * ((1 << 20) - len(GOOD))
    assert read(path, GOOD + filling)
    assert only_problem_in(path, GOOD + filling + "#").message == "larger than 1 MiB"


def test_what_is_no_regular_file_is_refused_and_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nowhere.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "null.yaml").symlink_to("/dev/null")
    said = {
        name: problems_of(tmp_path / f"{name}.yaml")[0].message
        for name in ("fifo", "directory", "dangling", "loop", "null", "missing")
    }
    assert said["fifo"] == said["null"] == "expected a job file, this is no regular file"
    assert said["directory"] == "expected a job file, this is a directory"
    assert said["dangling"] == "a link to nowhere: nowhere.yaml"
    assert said["missing"] == "no such file"
    assert said["loop"].startswith("cannot be read: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_told_so(path: Path) -> None:
    path.write_text(GOOD)
    path.chmod(0)
    assert problems_of(path)[0].message == "cannot be read: permission denied"


@pytest.mark.parametrize("name", ["web site", "-x", "größe", "a\nb", "a%2fb", "x" * 201, ".x"])
def test_name_that_cannot_be_a_job_is_told_beside_all_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(GOOD + "colour: 1\n")
    with pytest.raises(JobFileError) as raised:
        read_job(path)
    named, unknown = raised.value.problems
    assert (named.key, named.hint) == (None, "rename the file")
    assert unknown.key == "colour"


@pytest.mark.parametrize("name", ["a", "a.b-c_D9", "_", "x" * 200, "0"])
def test_names_that_can_be_a_job(tmp_path: Path, name: str) -> None:
    assert read(tmp_path / f"{name}.yml", GOOD).name == name


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    assert "*.yaml, *.yml, *.py" in only_problem_in(tmp_path / "website.json", "{}").message


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("catch_up: 12h", "catch_up", "expected true, false or {max_late: DURATION}"),
        ("catch_up: {late: 1h}", "catch_up.late", "unknown key, did you mean max_late?"),
        (
            "catch_up: {max_late: 0s}",
            "catch_up.max_late",
            "expected a duration longer than nothing",
        ),
        ("retries: 11", "retries", "expected 10 or less"),
        ("retries: -1", "retries", "expected 0 or more"),
        ("keep: {last: 0}", "keep.last", "expected 1 or more"),
        ("verify: {every: 1w, sample: 10}", "verify.sample", "expected a part such as 5%"),
        ("retries: often", "retries", "expected a whole number"),
        ("retry_wait: 0s", "retry_wait", "expected a duration longer than nothing"),
    ],
)
def test_what_is_wrong_with_a_setting_of_time_is_said(
    path: Path, line: str, key: str, message: str
) -> None:
    text = f"schedule: manual\ninclude:\n- file: /a\nsave:\n- directory: /b\n{line}\n"
    problem = only_problem_in(path, text)
    assert (problem.line, problem.key) == (6, key)
    assert problem.message.startswith(message)
