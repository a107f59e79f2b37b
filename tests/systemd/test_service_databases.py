"""Databases dumped by the service: with what its unit lets it, as it is shipped."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

import pytest

from tests.databases import PostgreSQL, find_postgresql
from tests.helpers import wait_for
from tests.systemd.machine import Machine
from tests.systemd.service import Service

SAVED = "/mnt/nas/backups"  # of storeletd-directory.conf as it is shipped
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def postgresql(machine: Machine) -> Iterator[str]:
    """PostgreSQL in the machine: user postgres needs no password, `backup` does; its socket."""
    if (missing := PostgreSQL.missing()) is not None:
        pytest.skip(missing)
    socket = "/run/db"
    as_owner = "runuser -u postgres --"
    machine.shell(
        f"""
        install -d -o postgres {socket} /srv/db
        cd /
        {as_owner} {find_postgresql()}/initdb --pgdata=/srv/db --auth-local=peer --no-sync
        {as_owner} tee /srv/db/pg_hba.conf <<<'local all postgres peer'
        {as_owner} tee -a /srv/db/pg_hba.conf <<<'local all all scram-sha-256'
        {as_owner} {find_postgresql()}/pg_ctl --pgdata=/srv/db --wait --log=/srv/db/log start \\
            --options='-c listen_addresses= -c unix_socket_directories={socket} -c fsync=off'
        ask="{as_owner} psql --host={socket} --set=ON_ERROR_STOP=1 --quiet"
        $ask --command="CREATE ROLE backup SUPERUSER LOGIN PASSWORD '{PASSWORD}'"
        $ask --command='CREATE DATABASE shop'
        $ask --command='CREATE TABLE things (a TEXT)' shop
        """
    )
    yield socket
    machine.shell(f"{as_owner} {find_postgresql()}/pg_ctl --pgdata=/srv/db --mode=immediate stop")


def run(service: Service, include: str, owner: str) -> dict[str, bytes]:
    """Run a job; return what is in its archive."""
    service.use("storeletd-directory.conf")
    service.machine.shell(f"rm -rf {SAVED}; install -d -o {owner} -m 0700 {SAVED}")
    service.machine.shell(f"echo '{PASSWORD}' >/etc/storelet/db; chmod 600 /etc/storelet/db")
    service.change("LoadCredential=db:/etc/storelet/db")
    save = f"save: [{{directory: {SAVED}}}]"
    service.write_job("web.yaml", f"schedule: manual\n{save}\ninclude: [{include}]\n")
    service.start()
    ran = service.run("web")
    assert ran["outcome"] == "success", ran["message"]
    (archive,) = service.machine.path(SAVED).iterdir()
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_postgresql_is_dumped_by_a_user_with_a_password(service: Service, postgresql: str) -> None:
    known = f"host: {postgresql}, username: backup, password: {{credential: db}}"
    found = run(service, f"{{postgresql: all, {known}}}", owner="storelet")
    assert b"things" in found["postgresql/shop.dump"]
    assert b"backup" in found["postgresql/globals.sql"]


@pytest.mark.parametrize("known", ["", "username: backup, password: {credential: db}"])
def test_with_the_drop_in_for_root_it_is_dumped_by_another_user(
    service: Service, postgresql: str, known: str
) -> None:
    service.use("storeletd-as-root.conf")
    item = f"{{postgresql: shop, host: {postgresql}, user: postgres, {known}}}"
    assert b"things" in run(service, item, owner="root")["postgresql/shop.dump"]


WRITER = """
import sqlite3, sys, time
database = sqlite3.connect("/srv/app/app.db")
database.execute("PRAGMA journal_mode=wal")
database.execute("CREATE TABLE things (a)")
database.execute("INSERT INTO things VALUES ('the last thing')")
database.commit()
if sys.argv[1] == "True":
    open("/srv/app/ready", "w").close()
    time.sleep(1000)
database.close()
open("/srv/app/ready", "w").close()
"""


@pytest.mark.parametrize("is_open", [True, False])
def test_an_sqlite_database_of_somebody_elses_is_dumped(
    service: Service, machine: Machine, is_open: bool
) -> None:
    """With a write-ahead log, in a directory that only its owner may enter."""
    machine.shell("rm -rf /srv/app; install -d -o nobody -m 0700 /srv/app")
    machine.path("/srv/writer").write_text(WRITER)
    unit = f"app-{is_open}"
    words = ("/opt/storelet/bin/python", "/srv/writer", str(is_open))
    machine.run("systemd-run", "--collect", f"--unit={unit}", "--uid=nobody", *words)
    wait_for(machine.path("/srv/app/ready").exists)
    found = run(service, "{sqlite: /srv/app/app.db}", owner="storelet")
    machine.run("systemctl", "stop", unit, check=False)  # it may have ended
    assert b"the last thing" in found["app.db"]
    assert not list(machine.path("/var/tmp").glob("**/storelet-*.db"))
