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
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import storelet
from storeletd.sqlitecopy import copy_database
from tests.databases import DatabaseServer, MariaDB, PostgreSQL
from tests.helpers import CLONE, wait_for

PASSWORD = r"""p"a'ss\w:o#r d;$`ü"""  # every character that some file or shell reads otherwise
PAIRS = 2_000  # at the beginning


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
        self.path = os.environ["PATH"]

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

    def ctl(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "storeletd.ctl", *words],
            cwd=CLONE,
            env={"PATH": self.path, "PYTHONPATH": str(CLONE), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

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
    result = jobs.restore("--database", "shop", "--as", 'sh`op\'s "copy" = 3')
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(r"Restored \w+/shop\.\w+ of db_\d+\.zip, .*, to database sh`op", result.stdout)
    assert is_whole(server, 'sh`op\'s "copy" = 3')
    assert is_whole(server, "shop")


def test_all_are_dumped_with_what_belongs_to_none_of_them(
    server: DatabaseServer, jobs: Jobs
) -> None:
    ran = jobs.run(jobs.item(server, "all", name="databases"))
    assert ran.returncode == 0, ran.stderr
    suffix, more = (".dump", "globals") if isinstance(server, PostgreSQL) else (".sql", "users")
    found = names(jobs.archive)
    assert {f"databases/shop{suffix}", f"databases/sh-op 2{suffix}"} <= found
    assert f"databases/mysql{suffix}" not in found
    with zipfile.ZipFile(jobs.archive) as opened:
        assert b"keeper" in opened.read(f"databases/{more}.sql")
        info = opened.getinfo(f"databases/shop{suffix}")
    assert stat.S_IMODE(info.external_attr >> 16) == 0o600


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


SPY = """\
#!/bin/sh
cat /proc/$$/cmdline /proc/$$/environ >> {log}
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
    jobs.path = f"{spies}:{jobs.path}"
    assert jobs.run(jobs.item(server, "all")).returncode == 0
    assert jobs.restore("--database", "shop", "--as", "spied").returncode == 0
    seen = log.read_bytes()
    for tool in tools:
        assert tool.encode() in seen
    assert b"p\"a'ss" not in seen
    assert jobs.secret.read_bytes().strip() not in seen


def test_a_dump_that_is_damaged_does_not_come_into_a_database_by_half(
    server: DatabaseServer, jobs: Jobs
) -> None:
    values = ",".join(f"({n}, {n}, md5('{n}'))" for n in range(40_000))
    server.sql("DROP TABLE IF EXISTS big; CREATE TABLE big (a INT, b INT, t TEXT)", "shop")
    server.sql(f"INSERT INTO big VALUES {values}", "shop")
    jobs.run(jobs.item(server, "shop"), compression="none")
    data = bytearray(jobs.archive.read_bytes())
    data[-300_000] ^= 1  # in what was added last
    jobs.archive.write_bytes(data)
    result = jobs.restore("--database", "shop", "--as", "torn")
    assert result.returncode == 1
    assert "shop" in result.stderr and "CRC" in result.stderr, result.stderr
    question = "SELECT count(*) FROM pg_database WHERE datname = 'torn'"
    if isinstance(server, MariaDB):
        question = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'torn'"
    assert server.sql(question) == "0"
    server.sql("DROP TABLE big", "shop")


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
    for path in (place, *place.iterdir()):
        os.chown(path, 65534, 65534)
        path.chmod(0o555 if path == place else 0o444)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    copied = subprocess.run(
        [*powerless, sys.executable, "-m", "storeletd.sqlitecopy", place / "shop.db"],
        cwd=CLONE,
        capture_output=True,
        check=False,
    )
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
    for path in (place, *place.iterdir()):
        os.chown(path, 65534, 65534)
        path.chmod(0o555 if path == place else 0o444)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    copied = subprocess.run(
        [*powerless, sys.executable, "-m", "storeletd.sqlitecopy", place / "shop.db"],
        cwd=CLONE,
        capture_output=True,
        check=False,
    )
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
        [sys.executable, "-m", "storeletd.ctl", *words, "--as", locked, "--overwrite"],
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
