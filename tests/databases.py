"""Database servers that are no mocks, as Debian packages them, each in a temporary directory.

They listen on a socket there alone, and nothing is left of them. `stop` may be called twice.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.helpers import wait_for

__all__ = ["DatabaseServer", "MariaDB", "PostgreSQL", "find_postgresql"]

# Who ends pytest by SIGKILL gets no chance to stop anything: PR_SET_PDEATHSIG, prctl(2).
_DYING_WITH_US = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class DatabaseServer:
    """A server on a socket in `top`; where we are root, it is the user's of its package."""

    account: str  # of the package

    @staticmethod
    def missing() -> str | None:
        """Say why it cannot be used here."""
        raise NotImplementedError

    def __init__(self) -> None:
        self._ended = ExitStack()
        top = self._ended.enter_context(tempfile.TemporaryDirectory(prefix="storelet-db-"))
        self.top = Path(top)
        self.data = self.top / "data"
        self._rights: dict[str, Any] = {}
        if os.geteuid() == 0:
            found = pwd.getpwnam(self.account)
            os.chown(self.top, found.pw_uid, found.pw_gid)
            self._rights = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
        self.top.chmod(0o755)  # for clients that are somebody else
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._begin()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _begin(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Kill it and remove all it had."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._ended.close()

    def run(self, *words: str | Path, text: str | None = None, **variables: str) -> str:
        """Run a command as the server's own user."""
        done = subprocess.run(
            words,
            input=text,
            cwd="/",
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"] + ":/usr/sbin", "HOME": str(self.top), **variables},
            **self._rights,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _start(self, *words: str | Path) -> None:
        log = (self.top / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["/usr/bin/env", "python3", "-c", _DYING_WITH_US, *map(str, words)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._rights,
            )

    def sql(self, text: str, database: str = "") -> str:
        """Run SQL as the server's owner; return what it answers, bare."""
        raise NotImplementedError

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.top / "log").read_text(errors="replace")
        try:
            return self.sql("SELECT 1") == "1"
        except AssertionError:
            return False


class PostgreSQL(DatabaseServer):
    """PostgreSQL; its owner needs no password, everybody else does."""

    account = "postgres"

    @staticmethod
    def missing() -> str | None:
        """Say why it cannot be used here."""
        if find_postgresql() is None or shutil.which("pg_dump") is None:
            return "PostgreSQL is not installed (Debian: postgresql)"
        return None

    def _begin(self) -> None:
        programs = find_postgresql()
        assert programs is not None
        self.run(
            programs / "initdb",
            f"--pgdata={self.data}",
            "--username=owner",
            "--auth-local=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        rules = "local all owner trust\nlocal all all scram-sha-256\n"
        self.run("tee", self.data / "pg_hba.conf", text=rules)
        quick = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        settings = ["listen_addresses=", f"unix_socket_directories={self.top}", *quick]
        self._start(programs / "postgres", "-D", self.data, *(f"-c{each}" for each in settings))
        wait_for(self._is_up)

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run SQL as the server's owner; return what it answers, bare."""
        own = (f"--host={self.top}", "--username=owner")
        how = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
        return self.run("psql", *how, *own, text=text, PGDATABASE=database)


class MariaDB(DatabaseServer):
    """MariaDB; its owner needs no password, everybody else does."""

    account = "mysql"

    @staticmethod
    def missing() -> str | None:
        """Say why it cannot be used here."""
        path = os.environ["PATH"] + ":/usr/sbin"
        if shutil.which("mariadbd", path=path) is None or shutil.which("mariadb-dump") is None:
            return "MariaDB is not installed (Debian: mariadb-server)"
        return None

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.top / "socket"

    def _begin(self) -> None:
        own = ["--no-defaults", f"--datadir={self.data}"]
        self.run("mariadb-install-db", *own, "--auth-root-authentication-method=normal")
        quick = ["--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"]
        self._start("/usr/sbin/mariadbd", *own, f"--socket={self.socket}", *quick)
        wait_for(self._is_up)

    def sql(self, text: str, database: str = "") -> str:
        """Run SQL as the server's owner; return what it answers, bare."""
        own = ("--no-defaults", f"--socket={self.socket}", "--user=root")
        how = ("--batch", "--skip-column-names", "--default-character-set=utf8mb4")
        return self.run("mariadb", *own, *how, f"--database={database}", text=text)


def find_postgresql() -> Path | None:
    """Return the directory of the server's programs, which is on no PATH in Debian."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    other = shutil.which("initdb")
    return None if other is None else Path(other).parent
