"""Databases as sources of YAML jobs, and back: real servers, with somebody writing all the time."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import storelet
from storeletd.sqlitecopy import copy_database
from tests.databases import DatabaseServer, MariaDB, PostgreSQL
from tests.helpers import CLONE, wait_for

PASSWORD = r"""p"a#'ss\n\w:or d;$`ü"""  # every character that some file or shell reads otherwise
COPY = r"""sh`op's "copy" = \3"""  # likewise
PAIRS = 2_000  # at the beginning
HEARING = ["env", "--default-signal"]  # what runs the tests may ignore signals, and so would others


@pytest.fixture(scope="module", params=[PostgreSQL, MariaDB], ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """A server with the databases `shop` and `sh-op 2`, and a user `backup` with a password."""
    kind: type[DatabaseServer] = request.param
    if (missing := kind.missing()) is not None:
        pytest.skip(missing)
    with kind() as server:
        if kind is PostgreSQL:
            quoted = PASSWORD.replace("'", "''")
            server.sql(f"CREATE ROLE backup SUPERUSER LOGIN PASSWORD '{quoted}'")
            server.sql("CREATE ROLE keeper")
        else:
            quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
            server.sql(
                f"CREATE USER backup@localhost IDENTIFIED BY '{quoted}';"
                "GRANT ALL ON *.* TO backup@localhost WITH GRANT OPTION;"
                "CREATE USER keeper@localhost"
            )
        for database in ("shop", "sh-op 2"):
            quote = '"' if kind is PostgreSQL else "`"
            server.sql(f"CREATE DATABASE {quote}{database}{quote}")
            server.sql("CREATE TABLE pairs (a INTEGER, b INTEGER, t TEXT)", database)
            values = ",".join(f"({n}, {n}, 'n\nUSE `shop`;\n{n}')" for n in range(PAIRS))
            server.sql(f"INSERT INTO pairs VALUES {values}", database)
        yield server


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept"
    path.mkdir()
    return path


class Jobs:
    """A directory of jobs, run once each by `storeletctl run`."""

    def __init__(self, top: Path, kept: Path) -> None:
        self.directory = top / "jobs"
        self.directory.mkdir()
        self.kept = kept
        self.secret = top / "secret"
        self.secret.write_text(PASSWORD + "\n")
        self.secret.chmod(0o600)
        self.variables = {"PATH": os.environ["PATH"]}

    def item(self, server: DatabaseServer, databases: Any, **more: Any) -> dict[str, Any]:
        """Return an item of `include` for a server."""
        kind = "postgresql" if isinstance(server, PostgreSQL) else "mariadb"
        host = server.top if kind == "postgresql" else server.socket  # type: ignore[attr-defined]
        return {
            kind: databases,
            "host": str(host),
            "username": "backup",
            "password": {"file": str(self.secret)},
            **more,
        }

    def write(self, *include: dict[str, Any], **more: Any) -> Path:
        """Write the job `db`."""
        job = {"schedule": "manual", "include": list(include), "save": [self.save], **more}
        path = self.directory / "db.yaml"
        path.write_text(yaml.safe_dump(job))
        path.chmod(0o600)
        return path

    @property
    def save(self) -> dict[str, str]:
        return {"directory": str(self.kept)}

    def words(self, *words: str | Path) -> list[str | Path]:
        return [sys.executable, "-m", "storeletd.ctl", *words]

    @property
    def how(self) -> dict[str, Any]:
        variables = {"PYTHONPATH": str(CLONE), "COLUMNS": "200", **self.variables}
        return {"cwd": CLONE, "env": variables, "stdin": subprocess.DEVNULL, "text": True}

    def ctl(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words(*words), **self.how, capture_output=True, check=False)

    def run(self, *include: dict[str, Any], **more: Any) -> subprocess.CompletedProcess[str]:
        return self.ctl("run", self.write(*include, **more))

    def restore(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.ctl("restore", "db", "--jobs", self.directory, *words)

    @property
    def archive(self) -> Path:
        return max(self.kept.iterdir())


@pytest.fixture
def jobs(tmp_path: Path, kept: Path) -> Jobs:
    return Jobs(tmp_path, kept)


@contextmanager
def writing(write: Callable[[int], object]) -> Iterator[None]:
    """Write in a thread, pair by pair, as long as the block lasts."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        number = PAIRS
        while not ended.is_set():
            number += 1
            try:
                write(number)
            except BaseException as error:  # noqa: BLE001 - it is raised below
                failures.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not failures, failures


def pair_off(server: DatabaseServer, number: int) -> None:
    """Add a pair in one transaction, in two steps: half of it must never be seen."""
    server.sql(
        f"BEGIN; INSERT INTO pairs VALUES ({number}, NULL, 'x');"
        f"UPDATE pairs SET b = a WHERE a = {number}; COMMIT;",
        "shop",
    )


def names(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        return set(opened.namelist())


def is_whole(server: DatabaseServer, database: str) -> bool:
    """Whether a database holds what was there at the beginning, and whole pairs alone."""
    found = server.sql(
        "SELECT count(*), sum(CASE WHEN b = a THEN 0 ELSE 1 END) FROM pairs", database
    )
    count, halves = re.split(r"[|\t]", found)
    assert server.sql("SELECT t FROM pairs WHERE a = 7", database).replace("\\n", "\n") == (
        "n\nUSE `shop`;\n7"
    )
    return int(count) >= PAIRS and int(halves) == 0


def test_a_database_comes_back_as_it_was_at_one_moment(server: DatabaseServer, jobs: Jobs) -> None:
    with writing(lambda number: pair_off(server, number)):
        ran = jobs.run(jobs.item(server, "shop"))
    assert ran.returncode == 0, ran.stderr
    result = jobs.restore("--database", "shop", "--as", COPY)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(r"Restored \w+/shop\.\w+ of db_\d+\.zip, .*, to database sh`op", result.stdout)
    assert is_whole(server, COPY)
    assert is_whole(server, "shop")
    again = jobs.restore("--database", "shop", "--as", COPY)
    assert again.returncode == 1
    assert "is there, and not empty" in again.stderr


def test_a_dump_waits_for_no_transaction(server: DatabaseServer, jobs: Jobs) -> None:
    sleep = "pg_sleep(60)" if isinstance(server, PostgreSQL) else "sleep(60)"
    listed = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    kill = "SELECT pg_terminate_backend({})"
    if isinstance(server, MariaDB):
        listed = f"SELECT id FROM information_schema.processlist WHERE info = 'SELECT {sleep}'"
        kill = "KILL {}"

    def write() -> None:
        with suppress(AssertionError):  # it is killed
            server.sql(f"BEGIN; INSERT INTO pairs VALUES (0, 0, 'x'); SELECT {sleep};", "shop")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        writer = wait_for(lambda: server.sql(listed))
        ran = jobs.run(jobs.item(server, "shop"))
        assert server.sql(listed) == writer
    finally:
        server.sql(kill.format(writer))
        thread.join()
    assert ran.returncode == 0, ran.stderr


def test_all_are_dumped_with_what_belongs_to_none_of_them(
    server: DatabaseServer, jobs: Jobs
) -> None:
    if isinstance(server, PostgreSQL):
        server.sql("CREATE DATABASE closed ALLOW_CONNECTIONS false")
        (jobs.directory / ".psqlrc").write_text("\\echo hello\n")
        jobs.variables["HOME"] = str(jobs.directory)
    ran = jobs.run(jobs.item(server, "all", name="databases"))
    assert ran.returncode == 0, ran.stderr
    suffix, more = (
        (".dump", "globals") if isinstance(server, PostgreSQL) else (".sql", "server/users")
    )
    found = names(jobs.archive)
    assert {f"databases/shop{suffix}", f"databases/sh-op 2{suffix}"} <= found
    assert {f"databases/{each}{suffix}" for each in ("mysql", "template1")}.isdisjoint(found)
    with zipfile.ZipFile(jobs.archive) as opened:
        assert b"keeper" in opened.read(f"databases/{more}.sql")
        info = opened.getinfo(f"databases/shop{suffix}")
    assert stat.S_IMODE(info.external_attr >> 16) == 0o600
    if isinstance(server, PostgreSQL):
        server.sql("DROP DATABASE closed")


def test_what_a_database_holds_is_replaced_only_where_that_is_asked_for(
    server: DatabaseServer, jobs: Jobs
) -> None:
    jobs.run(jobs.item(server, ["sh-op 2"]))
    server.sql("DELETE FROM pairs WHERE a > 7", "sh-op 2")
    refused = jobs.restore("--database", "sh-op 2")
    assert refused.returncode == 1
    assert refused.stderr == (
        "Error: database sh-op 2 is there, and not empty\n"
        "Try: --as NAME restores it beside; --overwrite replaces what is there\n"
    )
    assert server.sql("SELECT count(*) FROM pairs", "sh-op 2") == "8"
    would = jobs.restore("--database", "sh-op 2", "--overwrite", "--dry-run")
    assert would.returncode == 0
    assert would.stdout.startswith("Would restore ")
    assert server.sql("SELECT count(*) FROM pairs", "sh-op 2") == "8"
    done = jobs.restore("--database", "sh-op 2", "--overwrite", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["database"] == "sh-op 2"
    assert is_whole(server, "sh-op 2")
    server.sql("CREATE DATABASE bare")
    assert jobs.restore("--database", "sh-op 2", "--as", "bare").returncode == 0
    assert is_whole(server, "bare")


def test_one_that_is_gone_is_made_again_as_it_was(server: DatabaseServer, jobs: Jobs) -> None:
    if isinstance(server, PostgreSQL):
        server.sql("CREATE DATABASE old TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        server.sql("ALTER DATABASE old SET search_path = strange")
        ask = "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'old'"
        expected = "LATIN1"
    else:
        server.sql("CREATE DATABASE old CHARACTER SET latin1")
        ask = (
            "SELECT default_character_set_name FROM information_schema.schemata"
            " WHERE schema_name = 'old'"
        )
        expected = "latin1"
    schema = "public." if isinstance(server, PostgreSQL) else ""
    server.sql(f"CREATE TABLE {schema}t (a INT)", "old")
    jobs.run(jobs.item(server, "old"))
    server.sql("DROP DATABASE old")
    result = jobs.restore("--database", "old")
    assert (result.returncode, result.stderr) == (0, "")
    assert server.sql(ask) == expected
    if expected == "LATIN1":
        assert server.sql("SHOW search_path", "old") == "strange"
    server.sql("DROP DATABASE old")


def test_a_dump_that_fails_fails_the_run_and_nothing_is_kept(
    server: DatabaseServer, jobs: Jobs
) -> None:
    ran = jobs.run({"file": __file__}, jobs.item(server, ["shop", "nosuch"]))
    assert ran.returncode == 1
    kind = "postgresql/nosuch.dump" if isinstance(server, PostgreSQL) else "mariadb/nosuch.sql"
    assert f"the command of {kind} ended with status" in ran.stderr + ran.stdout
    assert re.search('database "nosuch" does not exist|Unknown database', ran.stderr + ran.stdout)
    assert list(jobs.kept.iterdir()) == []


@pytest.mark.parametrize("databases", ["shop", "all"])
def test_a_wrong_password_fails_it_without_being_said(
    server: DatabaseServer, jobs: Jobs, databases: str
) -> None:
    jobs.secret.write_text("open sesame")
    ran = jobs.run(jobs.item(server, databases))
    assert ran.returncode == 1
    assert re.search("password authentication failed|Access denied", ran.stderr + ran.stdout)
    assert "sesame" not in ran.stderr + ran.stdout
    assert list(jobs.kept.iterdir()) == []


NAMES = ["new\nline", "a/b%2F", "bäck", "users", "-x", "a\u2028b"]  # of databases, each a trap


@pytest.fixture
def named(server: DatabaseServer) -> Iterator[DatabaseServer]:
    """The server with a database of each of NAMES."""
    quote = '"' if isinstance(server, PostgreSQL) else "`"
    for name in NAMES:
        server.sql(f"CREATE DATABASE {quote}{name}{quote}")
        table = "public.t" if isinstance(server, PostgreSQL) else "t"
        server.sql(f"CREATE TABLE {table} (a INT); INSERT INTO {table} VALUES (7)", name)
    yield server
    for name in NAMES:
        server.sql(f"DROP DATABASE IF EXISTS {quote}{name}{quote}")


def test_databases_of_any_name_are_dumped_and_come_back(named: DatabaseServer, jobs: Jobs) -> None:
    """Also where the locale is none, as a service may have it."""
    jobs.variables["LC_ALL"] = "C"
    is_postgresql = isinstance(named, PostgreSQL)
    ran = jobs.run(jobs.item(named, "all"))
    assert ran.returncode == 0, ran.stderr
    kind, suffix = ("postgresql", ".dump") if is_postgresql else ("mariadb", ".sql")
    expected = {name.replace("%", "%25").replace("/", "%2F") for name in NAMES}
    assert {f"{kind}/{name}{suffix}" for name in expected} <= names(jobs.archive)
    ran = jobs.run(jobs.item(named, NAMES))
    assert ran.returncode == 0, ran.stderr
    assert names(jobs.archive) == {f"{kind}/{name}{suffix}" for name in expected}
    quote = '"' if is_postgresql else "`"
    for name in NAMES:
        named.sql(f"DROP DATABASE {quote}{name}{quote}")
        result = jobs.restore(f"--database={name}")
        assert (result.returncode, result.stderr) == (0, "")
        assert named.sql("SELECT a FROM t", name) == "7"
        again = jobs.restore(f"--database={name}")
        assert again.returncode == 1
        assert "is there, and not empty" in again.stderr


@pytest.mark.parametrize("password", ["a\nb", "k" * 1_001])
def test_a_password_that_is_none_is_refused_before_a_tool_repeats_it(
    server: DatabaseServer, jobs: Jobs, password: str
) -> None:
    jobs.secret.write_text(password)
    ran = jobs.run(jobs.item(server, "shop"))
    assert ran.returncode == 12
    assert "it is longer than a line of 1,000 characters" in ran.stderr + ran.stdout
    assert "kkk" not in ran.stderr + ran.stdout


def test_a_tool_that_is_not_there_is_named(server: DatabaseServer, jobs: Jobs) -> None:
    jobs.variables["PATH"] = "/nonexistent"
    ran = jobs.run(jobs.item(server, "shop"))
    assert ran.returncode == 1
    tool = "pg_dump" if isinstance(server, PostgreSQL) else "mariadb-dump"
    assert f"cannot run {tool}: No such file or directory" in ran.stderr + ran.stdout
    assert "is it installed, and on the PATH?" in ran.stderr + ran.stdout


def test_a_database_comes_back_though_the_password_of_another_server_is_gone(
    server: DatabaseServer, jobs: Jobs
) -> None:
    item = jobs.item(server, "shop")
    assert jobs.run(item).returncode == 0
    other = {**item, "name": "other", "password": {"file": "/nonexistent"}}
    jobs.write(other, item)
    result = jobs.restore("--database", "shop", "--as", "copy")
    assert (result.returncode, result.stderr) == (0, "")


def test_all_that_a_database_has_comes_back(server: DatabaseServer, jobs: Jobs) -> None:
    """Into another one, of which the same tools then say the same."""
    rich = RICH_POSTGRESQL if isinstance(server, PostgreSQL) else RICH_MARIADB
    server.sql("CREATE DATABASE rich")
    server.sql(rich, "rich")
    if isinstance(server, PostgreSQL):  # which every database that is made has
        server.sql("CREATE TABLE public.local (a INT)", "template1")
    assert jobs.run(jobs.item(server, "rich")).returncode == 0
    result = jobs.restore("--database", "rich", "--as", "rich2")
    assert (result.returncode, result.stderr) == (0, "")
    assert (said := describe(server, "rich")) == describe(server, "rich2")
    assert len(said) > 4_000
    if isinstance(server, PostgreSQL):
        server.sql("DROP TABLE public.local", "template1")
    server.sql("DROP DATABASE rich2")
    server.sql("DROP DATABASE rich")


RICH_POSTGRESQL = r"""
CREATE TYPE mood AS ENUM ('a', 'b');
CREATE TABLE public.t (
    id INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, e TEXT DEFAULT '😀', b BYTEA, m mood,
    g INT GENERATED ALWAYS AS (length('abc')) STORED, j JSONB, l TEXT[]
);
CREATE TABLE public.c (id INT, t INT REFERENCES public.t (id) ON DELETE CASCADE);
INSERT INTO public.t (e, b, m, j, l)
    VALUES (E'😀\n\\.\n', '\x00ff275c0d0a1a', 'a', '{"x": 1}', '{a,"b,c"}');
INSERT INTO public.c VALUES (1, 1);
CREATE VIEW public.v AS SELECT t.*, c.id AS c FROM public.t JOIN public.c ON c.t = t.id;
CREATE MATERIALIZED VIEW public.mv AS SELECT * FROM public.v;
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER tr BEFORE INSERT ON public.c FOR EACH ROW EXECUTE FUNCTION public.f();
CREATE PROCEDURE public.p() LANGUAGE sql AS $$ SELECT 1 $$;
CREATE TABLE public.parts (k INT, t TEXT) PARTITION BY RANGE (k);
CREATE TABLE public.part PARTITION OF public.parts FOR VALUES FROM (0) TO (10);
ALTER TABLE public.c ENABLE ROW LEVEL SECURITY;
CREATE POLICY ours ON public.c USING (id > 0);
SELECT lo_from_bytea(4711, '\x00010203');
COMMENT ON TABLE public.t IS 'said';
CREATE SEQUENCE public.s START 7;
GRANT SELECT ON public.t TO keeper;
"""
RICH_MARIADB = r"""
CREATE TABLE t (
    id INT PRIMARY KEY AUTO_INCREMENT, e VARCHAR(100) CHARACTER SET utf8mb4 DEFAULT '😀',
    g INT GENERATED ALWAYS AS (length(e)) STORED, v INT AS (length(e) + 1) VIRTUAL,
    b LONGBLOB, j JSON, `od``d` TEXT COMMENT 'x\nUSE `rich`;', p POINT, bits BIT(3)
);
CREATE TABLE c (id INT, t INT, FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE);
INSERT INTO t (e, b, j, bits, `od``d`)
    VALUES ('😀 ü', unhex('00ff0a0d275c1a22'), '{"a": 1}', b'101',
    'x\nUSE `rich`;\nCREATE DATABASE `rich`');
INSERT INTO c VALUES (1, 1);
CREATE VIEW v AS SELECT t.id, rich.t.e, c.id AS c FROM rich.t JOIN c ON c.t = t.id;
CREATE VIEW w AS SELECT * FROM rich.v;
CREATE TABLE versioned (x INT) WITH SYSTEM VERSIONING;
CREATE TABLE old (a TEXT) ENGINE=MyISAM;
INSERT INTO old VALUES ('back\\slash');
CREATE SEQUENCE s START WITH 7;
CREATE FUNCTION f(x INT) RETURNS INT DETERMINISTIC RETURN x + 1;
CREATE EVENT ev ON SCHEDULE EVERY 1 DAY STARTS '2026-01-01' DO DELETE FROM c WHERE id > 1000;
DELIMITER //
CREATE TRIGGER tr BEFORE INSERT ON c FOR EACH ROW BEGIN
    SET new.id = new.id + 1;
END//
CREATE PROCEDURE p() BEGIN
    INSERT INTO c VALUES (5, 1);
END//
"""


def describe(server: DatabaseServer, database: str) -> str:
    """Return a database as text, without what is another one each time."""
    if isinstance(server, PostgreSQL):
        words = ["pg_dump", f"--host={server.top}", "--username=owner", database]
        return re.sub(r"(?m)^\\(un)?restrict .*$", "", server.run(*words))
    assert isinstance(server, MariaDB)
    own = ("--no-defaults", f"--socket={server.socket}", "--user=root")
    how = ("--routines", "--events", "--hex-blob", "--skip-dump-date", "--skip-comments")
    said = server.run("mariadb-dump", *own, *how, database)
    return re.sub(r"(?m)^USE .*$", "", said)


def test_a_large_row_is_no_limit(server: DatabaseServer, jobs: Jobs) -> None:
    """Above what mariadb-dump takes by itself, where the server takes it."""
    if isinstance(server, MariaDB):
        server.sql("SET GLOBAL max_allowed_packet = 1 << 30")
    piece = "repeat('0123456789abcdef', 1 << 21)"
    server.sql("DROP TABLE IF EXISTS large; CREATE TABLE large (t LONGTEXT)".replace(
        "LONGTEXT", "LONGTEXT" if isinstance(server, MariaDB) else "TEXT"), "shop")  # fmt: skip
    server.sql(f"INSERT INTO large VALUES ({piece})", "shop")
    ran = jobs.run(jobs.item(server, "shop"))
    assert ran.returncode == 0, ran.stderr + ran.stdout
    result = jobs.restore("--database", "shop", "--as", "large")
    assert (result.returncode, result.stderr) == (0, "")
    assert server.sql("SELECT length(t) FROM large", "large") == str(16 << 21)
    server.sql("DROP DATABASE large")
    server.sql("DROP TABLE large", "shop")


STUCK = """\
#!/bin/sh
case "$0 $*" in
*pg_restore*)
    head -c 30000 | /usr/bin/pg_restore "$@"
    # The server does not always see at once that who restored is gone.
    PGDATABASE=ended psql --command='SELECT pg_sleep(600)' >/dev/null 2>&1 &
    until psql --command='SELECT wait_event FROM pg_stat_activity' | grep -q PgSleep
    do :; done ;;
*--binary-mode*) head -c 30000 | /usr/bin/mariadb "$@" ;;
*) exec /usr/bin/mariadb "$@" ;;
esac
touch {stuck}
exec sleep 600
"""


@pytest.fixture
def stuck(server: DatabaseServer, jobs: Jobs, tmp_path: Path) -> Path:
    """A file that shows that what restores has taken a part of the dump, and takes no more."""
    path = tmp_path / "stuck"
    tools = tmp_path / "tools"
    tools.mkdir()
    tool = tools / ("pg_restore" if isinstance(server, PostgreSQL) else "mariadb")
    tool.write_text(STUCK.format(stuck=path))
    tool.chmod(0o755)
    jobs.variables["PATH"] = f"{tools}:{os.environ['PATH']}"
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_restore_that_is_ended_takes_back_what_it_made(
    server: DatabaseServer, jobs: Jobs, stuck: Path, number: signal.Signals
) -> None:
    assert jobs.run(jobs.item(server, "shop"), compression="none").returncode == 0
    words = ["--database", "shop", "--as", "ended"]
    with subprocess.Popen(
        [*HEARING, *jobs.words("restore", "db", "--jobs", jobs.directory, *words)],
        **jobs.how,
        stderr=subprocess.PIPE,
    ) as process:
        wait_for(stuck.exists, seconds=30)
        process.send_signal(number)
        said = process.communicate()[1]
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
    assert process.returncode == codes[number]
    assert said == ("\nError: interrupted\n" if number == signal.SIGINT else "")
    assert not exists(server, "ended")


def test_one_that_cannot_take_it_back_says_why_it_failed_and_that(
    server: DatabaseServer, jobs: Jobs, tmp_path: Path
) -> None:
    assert jobs.run(jobs.item(server, "shop")).returncode == 0
    for tool, failing in (
        ("pg_restore", "*"),
        ("dropdb", "*"),
        ("mariadb", "*--binary-mode*|*DROP*"),
    ):
        path = tmp_path / tool
        path.write_text(
            f'#!/bin/sh\ncase "$0 $*" in {failing}) echo {tool} is ill >&2; exit 5;; esac\n'
            f'exec /usr/bin/{tool} "$@"\n'
        )
        path.chmod(0o755)
    jobs.variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    result = jobs.restore("--database", "shop", "--as", "ill")
    tool = "pg_restore" if isinstance(server, PostgreSQL) else "mariadb"
    assert result.returncode == 1
    assert result.stderr == (
        "Only a part of database ill is restored\n"
        f"Error: {tool} ended with status 5: {tool} is ill\n"
    )
    server.sql("DROP DATABASE IF EXISTS ill")


def exists(server: DatabaseServer, database: str) -> bool:
    question = "SELECT count(*) FROM pg_database WHERE datname"
    if isinstance(server, MariaDB):
        question = "SELECT count(*) FROM information_schema.schemata WHERE schema_name"
    return server.sql(f"{question} = '{database}'") == "1"


SPY = """\
#!/bin/sh
cat /proc/$$/cmdline /proc/$$/environ >> {log}
echo "in $(readlink /proc/$$/cwd)" >> {log}
exec {tool} "$@"
"""


def test_the_password_is_on_no_command_line_and_in_no_environment(
    server: DatabaseServer, jobs: Jobs, tmp_path: Path
) -> None:
    tools = ["pg_dump", "psql", "pg_restore", "createdb"]
    if isinstance(server, MariaDB):
        tools = ["mariadb-dump", "mariadb"]
    spies = tmp_path / "spies"
    spies.mkdir()
    log = tmp_path / "log"
    for tool in tools:
        (spies / tool).write_text(SPY.format(log=log, tool=f"/usr/bin/{tool}"))
        (spies / tool).chmod(0o755)
    jobs.variables["PATH"] = f"{spies}:{os.environ['PATH']}"
    assert jobs.run(jobs.item(server, "all")).returncode == 0
    assert jobs.restore("--database", "shop", "--as", "spied").returncode == 0
    seen = log.read_bytes()
    for tool in tools:
        assert tool.encode() in seen
    assert re.findall(rb"\0in (/.+)\n", seen) == []
    if isinstance(server, PostgreSQL):  # who may ask at a terminal would wait there
        assert seen.count(b"--no-password") == seen.count(b"in /\n")
    assert b"p\"a#'s" not in seen
    assert jobs.secret.read_bytes().strip() not in seen


def test_a_dump_that_is_damaged_does_not_come_into_a_database_by_half(
    server: DatabaseServer, jobs: Jobs
) -> None:
    server.sql("CREATE DATABASE torn")
    table = "public.big" if isinstance(server, PostgreSQL) else "big"
    values = ",".join(f"({n}, {n}, md5('{n}'))" for n in range(40_000))
    server.sql(f"CREATE TABLE {table} (a INT, b INT, t TEXT)", "torn")
    server.sql(f"INSERT INTO {table} VALUES {values}", "torn")
    jobs.run(jobs.item(server, "torn"), compression="none")
    data = bytearray(jobs.archive.read_bytes())
    data[-300_000] ^= 1  # in what was added last
    jobs.archive.write_bytes(data)
    is_damaged = r"Error: .*torn.*CRC.*\n(Try: .*\n)?"

    result = jobs.restore("--database", "torn", "--as", "copy`of torn")
    assert result.returncode == 1
    assert re.fullmatch(is_damaged, result.stderr), result.stderr
    assert not exists(server, "copy`of torn")

    server.sql(f"INSERT INTO {table} VALUES (7, 7, 'since')", "torn")
    result = jobs.restore("--database", "torn", "--overwrite")
    assert result.returncode == 1
    if isinstance(server, PostgreSQL):
        assert re.fullmatch(is_damaged, result.stderr), result.stderr
        assert server.sql("SELECT count(*) FROM big", "torn") == "40001"
    else:
        half = "Only a part of database torn is restored\n"
        assert re.fullmatch(half + is_damaged, result.stderr), result.stderr

    server.sql("DROP DATABASE torn")
    result = jobs.restore("--database", "torn")
    assert result.returncode == 1
    assert re.fullmatch(is_damaged, result.stderr), result.stderr
    assert not exists(server, "torn")


def test_a_database_that_is_not_in_the_archive_is_said_with_those_that_are(
    server: DatabaseServer, jobs: Jobs
) -> None:
    jobs.run(jobs.item(server, "shop"))
    result = jobs.restore("--database", "shp")
    member = "postgresql/shop.dump" if isinstance(server, PostgreSQL) else "mariadb/shop.sql"
    assert result.returncode == 4
    assert result.stderr == (
        f"Error: no database shp in {jobs.archive.name}\nTry: there is {member}\n"
    )


def test_one_called_all_is_one_and_a_name_is_not_empty(server: DatabaseServer, jobs: Jobs) -> None:
    quote = '"' if isinstance(server, PostgreSQL) else "`"
    server.sql(f"CREATE DATABASE {quote}.all{quote}")
    assert jobs.run(jobs.item(server, [".all", "shop"])).returncode == 0
    server.sql(f"DROP DATABASE {quote}.all{quote}")
    assert jobs.restore("--database", "nosuch").returncode == 4
    for words in (["--database="], ["--database=shop", "--as=", "--overwrite"]):
        result = jobs.restore(*words)
        assert result.returncode == 2
        assert "the name is empty: is a variable of the shell not set?" in result.stderr


def test_an_archive_of_another_name_says_that_its_job_is_not_known(
    server: DatabaseServer, jobs: Jobs
) -> None:
    assert jobs.run(jobs.item(server, "shop")).returncode == 0
    other = jobs.archive.rename(jobs.kept / "other.zip")
    result = jobs.ctl("restore", other, "--jobs", jobs.directory, "--database", "shop")
    assert result.returncode == 4
    assert result.stderr.startswith("Error: nobody knows of which job other.zip is\nTry: name it")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may dump as somebody else")
def test_the_tools_run_as_the_user_that_the_job_says(
    server: DatabaseServer, jobs: Jobs, tmp_path: Path
) -> None:
    ran = jobs.run(jobs.item(server, "shop", user=server.account))
    assert ran.returncode == 0, ran.stderr
    result = jobs.restore("--database", "shop", "--as", "by another")
    assert (result.returncode, result.stderr) == (0, "")


def test_doctor_says_whether_a_database_is_there(server: DatabaseServer, jobs: Jobs) -> None:
    kind = "postgresql" if isinstance(server, PostgreSQL) else "mariadb"
    jobs.write(jobs.item(server, ["shop", "nosuch"]), jobs.item(server, "all", name="x"))
    result = jobs.ctl("doctor", "db", "--jobs", jobs.directory)
    assert result.returncode == 1
    assert f"{kind}, database shop" in result.stdout
    assert f"{kind} has no database nosuch" in result.stdout
    jobs.secret.write_text("another")
    result = jobs.ctl("doctor", "db", "--jobs", jobs.directory)
    assert "password authentication failed" in result.stdout or "Access denied" in result.stdout


def copy_without_rights(place: Path) -> subprocess.CompletedProcess[bytes]:
    """Copy the database `shop.db` as who may read a directory, and write nothing there."""
    for path in (place, *place.iterdir()):
        os.chown(path, 65534, 65534)
        path.chmod(0o555 if path == place else 0o444)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return subprocess.run(
        [*powerless, sys.executable, "-m", "storeletd.sqlitecopy", place / "shop.db"],
        cwd=CLONE,
        capture_output=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be made to have no rights")
def test_who_may_not_be_somebody_else_is_told(server: DatabaseServer, jobs: Jobs) -> None:
    path = jobs.write(jobs.item(server, "shop", user=server.account))
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    ran = subprocess.run(
        [*powerless, *jobs.words("run", path)], **jobs.how, capture_output=True, check=False
    )
    assert ran.returncode == 1
    assert "Operation not permitted\n  Try: for that, run it as root" in ran.stdout


# MongoDB, of which there is none here: its tools are asked whether they are called as they are
# documented, https://www.mongodb.com/docs/database-tools/mongorestore/

MONGO = """\
#!/bin/sh
{
  echo "$(basename $0)"
  for each in "$@"; do
    case "$each" in --config=*) cat "${each#*=}" ;; *) echo "$each" ;; esac
  done
} >> LOG
case "$0" in *restore) cat >> LOG; echo "3 document(s) restored" >&2 ;; *) echo a dump ;; esac
"""


@pytest.fixture
def called(jobs: Jobs, tmp_path: Path) -> Path:
    """A file that tells how the tools were called, and what they read."""
    log = tmp_path / "called"
    for tool in ("mongodump", "mongorestore"):
        (tmp_path / tool).write_text(MONGO.replace("LOG", str(log)))
        (tmp_path / tool).chmod(0o755)
    jobs.variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    jobs.secret.write_text('a"b: \\😀')
    return log


@pytest.mark.parametrize("databases", ["all", "shop"])
def test_mongodb_is_dumped_and_fed_back_by_its_tools(
    jobs: Jobs, called: Path, databases: str
) -> None:
    item = {"mongodb": databases, "host": "db", "port": 1, "username": "backup"}
    options = ["--authenticationDatabase=admin"]
    ran = jobs.run({**item, "password": {"file": str(jobs.secret)}, "options": options})
    assert ran.returncode == 0, ran.stderr + ran.stdout
    expected = ["--archive", "--host=db", "--port=1", "--username=backup"]
    expected += [r'password: "a\"b: \\😀"', *options]
    which = [] if databases == "all" else ["--db=shop"]
    assert called.read_text().splitlines() == ["mongodump", *expected, *which]
    name = "mongodb/.all.archive" if databases == "all" else "mongodb/shop.archive"
    assert names(jobs.archive) == {name}
    called.unlink()
    result = jobs.restore("--database", "shop")
    assert (result.returncode, result.stderr) == (0, "3 document(s) restored\n")
    said = called.read_text().splitlines()
    expected.insert(1, "--stopOnError")
    assert said == ["mongorestore", *expected, "--nsInclude=shop.*", "a dump"]
    called.unlink()
    result = jobs.restore("--database", "shop", "--as", "copy", "--overwrite")
    assert result.returncode == 0, result.stderr
    renamed = ["--nsInclude=shop.*", "--nsFrom=shop.*", "--nsTo=copy.*", "--drop"]
    assert called.read_text().splitlines() == ["mongorestore", *expected, *renamed, "a dump"]


# SQLite


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_of_sqlite_comes_back_as_it_was_at_one_moment(
    jobs: Jobs, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "shop.db"
    database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("CREATE TABLE pairs (a INTEGER, b INTEGER, t TEXT)")
    database.executemany(
        "INSERT INTO pairs VALUES (?, ?, ?)", [(n, n, "x" * 2_000) for n in range(PAIRS)]
    )

    def write(number: int) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO pairs VALUES (?, NULL, ?)", (number, "y" * 2_000))
        database.execute("UPDATE pairs SET b = a WHERE a = ?", (number,))
        database.execute("COMMIT")

    with writing(write):
        ran = jobs.run({"sqlite": str(path)})
    assert ran.returncode == 0, ran.stderr
    copy = tmp_path / "copy.db"
    result = jobs.restore("--database", "shop.db", "--as", str(copy))
    assert (result.returncode, result.stderr) == (0, "")
    with sqlite3.connect(copy) as restored:
        assert restored.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count, halves = restored.execute("SELECT count(*), sum(b IS NOT a) FROM pairs").fetchone()
        assert (count >= PAIRS, halves) == (True, 0)
    refused = jobs.restore("--database", "shop.db")
    assert refused.returncode == 1
    assert "is there, and not empty" in refused.stderr
    database.execute("DELETE FROM pairs")
    done = jobs.restore("--database", "shop.db", "--overwrite")
    assert (done.returncode, done.stderr) == (0, "")
    assert database.execute("SELECT count(*) FROM pairs").fetchone() == (count,)  # as it is open
    database.close()


def test_one_of_two_that_are_called_alike_is_named_by_its_place(jobs: Jobs, tmp_path: Path) -> None:
    paths = [tmp_path / name / "sh?o#%70.db" for name in ("a", "b")]  # as a URI has it: a query
    for path in paths:
        path.parent.mkdir()
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"CREATE TABLE {path.parent.name} (x)")
    ran = jobs.run(*({"sqlite": str(path), "name": f"{path.parent.name}.db"} for path in paths))
    assert ran.returncode == 0, ran.stderr
    result = jobs.restore("--database", "sh?o#%70.db")
    assert result.returncode == 1
    assert result.stderr.endswith(
        "has several databases sh?o#%70.db\nTry: --database a.db or b.db\n"
    )
    paths[1].unlink()
    assert jobs.restore("--database", "b.db").returncode == 0
    with closing(sqlite3.connect(paths[1])) as database:
        database.execute("SELECT x FROM b")


def test_a_file_that_is_empty_is_no_database_and_a_new_one_is_the_users(
    jobs: Jobs, tmp_path: Path
) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA page_size=512")
        database.execute("CREATE TABLE t (a)")
    assert jobs.run({"sqlite": str(path)}).returncode == 0
    path.write_bytes(b"")
    assert jobs.restore("--database", "shop.db").returncode == 0
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    if os.geteuid() == 0:
        path.unlink()
        jobs.write({"sqlite": str(path), "user": "nobody"})
        assert jobs.restore("--database", "shop.db").returncode == 0
        assert path.owner() == "nobody"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be made to have no rights")
@pytest.mark.parametrize("is_open", [True, False])
def test_one_with_a_log_is_read_where_nothing_may_be_written(tmp_path: Path, is_open: bool) -> None:
    """As the service does it: it may read all, and write nothing."""
    place = tmp_path / "place"
    place.mkdir()
    database = sqlite3.connect(place / "shop.db")
    database.execute("PRAGMA journal_mode=wal")
    database.execute("CREATE TABLE pairs (a)")
    database.execute("INSERT INTO pairs VALUES (7)")
    database.commit()
    if not is_open:
        database.close()
    copied = copy_without_rights(place)
    assert copied.returncode == 0, copied.stderr
    (tmp_path / "copy.db").write_bytes(copied.stdout)
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("SELECT a FROM pairs").fetchall() == [(7,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be made to have no rights")
def test_one_whose_writer_died_is_no_dump_with_half_of_what_it_wrote(tmp_path: Path) -> None:
    """Its journal undoes that; who may not write can neither do so nor read without it."""
    place = tmp_path / "place"
    place.mkdir()
    writer = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size=5")  # so that it writes before the end
database.execute("CREATE TABLE t (a)")
database.executemany("INSERT INTO t VALUES (?)", [("x" * 1_000,)] * 500)
database.execute("BEGIN")
database.execute("UPDATE t SET a = ?", ("y" * 1_000,))
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", writer, place / "shop.db"], check=True)
    copied = copy_without_rights(place)
    assert copied.returncode == 1
    assert copied.stdout == b""
    assert b"readonly" in copied.stderr


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A database that somebody has locked, and does not let go."""
    path = tmp_path / "locked.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE t (a)")
        holder.execute("BEGIN EXCLUSIVE")
        yield path


def test_one_that_stays_locked_is_not_waited_for_for_ever(locked: Path) -> None:
    with (
        closing(sqlite3.connect(locked, timeout=0)) as source,
        closing(sqlite3.connect(":memory:")) as target,
    ):
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            copy_database(source, target, 0)
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            copy_database(target, source, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_copy_that_is_ended_leaves_nothing_among_the_temporary_files(
    locked: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "storeletd.sqlitecopy", locked],
        cwd=CLONE,
        env={"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
    ) as process:
        opened = Path(f"/proc/{process.pid}/fd")

        def is_copying() -> bool:
            found = [os.readlink(each) for each in opened.iterdir() if each.is_symlink()]
            return str(locked) in found and any(str(temporary) in each for each in found)

        wait_for(is_copying)
        process.send_signal(number)
    assert process.returncode == -number
    assert list(temporary.iterdir()) == []


def test_a_restore_that_waits_for_a_lock_can_be_interrupted(jobs: Jobs, locked: Path) -> None:
    with closing(sqlite3.connect(locked.with_name("shop.db"))) as database:
        database.execute("CREATE TABLE t (a)")
    assert jobs.run({"sqlite": str(locked.with_name("shop.db"))}).returncode == 0
    words = ["restore", "db", "--jobs", jobs.directory, "--database", "shop.db"]
    with subprocess.Popen(
        [*HEARING, *jobs.words(*words, "--as", locked, "--overwrite")],
        cwd=CLONE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(lambda: any(locked.parent.glob(".storelet-*")))
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1].endswith("interrupted\n")
    assert process.returncode == 130
    assert not any(locked.parent.glob(".storelet-*"))


def test_what_is_no_database_of_sqlite_fails_the_run(jobs: Jobs, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    ran = jobs.run({"sqlite": str(path)})
    assert ran.returncode == 1
    assert f"No such file or directory: '{path}'" in ran.stderr + ran.stdout
    os.mkfifo(path)
    ran = jobs.run({"sqlite": str(path)})
    assert ran.returncode == 1
    assert f"not a file: {path}" in ran.stderr + ran.stdout
    path.unlink()
    path.write_text("something else, which is long enough to have a header" * 100)
    ran = jobs.run({"sqlite": str(path)})
    assert ran.returncode == 1
    assert "file is not a database" in ran.stderr + ran.stdout
    assert list(jobs.kept.iterdir()) == []


# Commands


def test_the_output_of_a_command_is_a_file_of_the_archive(jobs: Jobs) -> None:
    ran = jobs.run(
        {"command": ["printf", "%s", "a b"], "name": "list/of.txt"},
        {"command": "echo $WHO | tr a-z A-Z", "name": "shell.txt"},
        environment={"WHO": "me"},
    )
    assert ran.returncode == 0, ran.stderr
    opened = storelet.open_archive(jobs.archive)
    assert (opened.read("list/of.txt"), opened.read("shell.txt")) == (b"a b", b"ME\n")


def test_one_that_fails_in_the_middle_of_a_pipe_fails_the_run(jobs: Jobs) -> None:
    ran = jobs.run({"command": "(echo half; echo oh no >&2; exit 4) | cat", "name": "x"})
    assert ran.returncode == 1
    assert "the command of x ended with status 4: oh no" in ran.stderr + ran.stdout
    assert list(jobs.kept.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_one_is_run_by_the_user_that_the_item_says(jobs: Jobs) -> None:
    ran = jobs.run({"command": ["id", "-un"], "name": "who", "user": "nobody"})
    assert ran.returncode == 0, ran.stderr
    assert storelet.open_archive(jobs.archive).read("who") == b"nobody\n"
