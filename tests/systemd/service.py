"""The shipped unit as a user has it: installed by the manual's own commands, in a machine."""

from __future__ import annotations

import json
import re
import textwrap
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.helpers import CLONE, Daemon, wait_for
from tests.systemd.machine import Machine

__all__ = ["Service"]

_DROP_INS = "/etc/systemd/system/storeletd.service.d"
_CGROUP = "/sys/fs/cgroup/system.slice/storeletd.service"


class Service:
    """storeletd.service in a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._since = time.time()
        self._number = 0

    def install(self) -> None:
        """Do what README.rst says."""
        readme = (CLONE / "README.rst").read_text(encoding="utf-8")
        said = re.search(r"from a clone as root::\n\n((?: {4}.*\n)+)", readme)
        assert said, "README.rst does not say how to install the service"
        self.machine.shell(f"cd /opt/clone\n{textwrap.dedent(said[1])}")

    def reset(self) -> None:
        """Stop it, and forget its jobs, its history, its drop-ins and its lines in the journal."""
        self.machine.shell(
            f"""
            systemctl stop storeletd
            rm -rf {_DROP_INS} /etc/storelet.d/* /etc/storelet/* /var/lib/storelet
            systemctl daemon-reload
            systemctl reset-failed
            """
        )
        self._since = time.time()

    def write_job(self, name: str, text: str) -> None:
        """Drop a job file."""
        path = self.machine.path(f"/etc/storelet.d/.{name}")
        path.write_text(textwrap.dedent(text))
        path.chmod(0o600)
        path.rename(path.with_name(name))

    def change(self, *lines: str) -> None:
        """Change the unit by lines in its section [Service]."""
        self._number += 1
        self._add_drop_in(f"{self._number}.conf", "\n".join(("[Service]", *lines, "")))

    def use(self, drop_in: str) -> None:
        """Change the unit by a drop-in that is shipped."""
        self._add_drop_in(drop_in, (CLONE / "packaging" / "systemd" / drop_in).read_text())

    def _add_drop_in(self, name: str, text: str) -> None:
        directory = self.machine.path(_DROP_INS)
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(text)
        self.machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        """Start it; systemd says when it is ready."""
        self.machine.run("systemctl", "start", "storeletd")

    def show(self, name: str) -> str:
        """Return a property, as systemctl has it."""
        shown = self.machine.run("systemctl", "show", f"--property={name}", "--value", "storeletd")
        return shown.stdout.strip()

    def processes(self) -> set[int]:
        """Return its processes, by their ids in the machine."""
        listed = self.machine.run("cat", f"{_CGROUP}/cgroup.procs", check=False).stdout
        return {int(line) for line in listed.split()}

    def ctl(self, *arguments: str, user: str = "root", check: bool = True) -> CompletedProcess[str]:
        """Run storeletctl as a user; with `check`, its exit code must be 0."""
        return self.machine.run("runuser", "-u", user, "--", "storeletctl", *arguments, check=check)

    def ask(self, path: str) -> Any:
        """Return what the daemon answers, at once."""
        socket = self.machine.path("/run/storelet/storeletd.sock")
        status, answer = Daemon(jobs=Path(), state=Path(), socket=socket).request("GET", path)
        assert status == 200, answer
        return answer

    def runs(self, job: str) -> list[dict[str, Any]]:
        """Return a job's runs, newest first; none where the job is not known yet."""
        done = self.ctl("history", job, "--json", check=False)
        runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"] if not done.returncode else []
        return runs

    def run(self, job: str) -> dict[str, Any]:
        """Run a job to its end, and return the run."""
        self.await_job(job)
        self.ctl("run-now", job, check=False)
        return self.runs(job)[0]

    def await_job(self, job: str) -> None:
        """Wait until a job that was dropped is loaded."""
        wait_for(lambda: job in self.jobs(), what=f"job {job}")

    def jobs(self) -> set[str]:
        """Return the names of the jobs that are loaded."""
        return {job["name"] for job in self.ask("/jobs")["jobs"]}

    def journal(self, *matches: str, output: str = "cat") -> str:
        """Return its lines in the journal since `reset`; matches as for journalctl."""
        command = ("journalctl", "--quiet", f"--since=@{self._since:.6f}", f"--output={output}")
        return self.machine.run(*command, *matches, check=False).stdout  # 1: there are none

    def entries(self, *matches: str) -> list[dict[str, str]]:
        """Return its entries in the journal, with all fields."""
        return [json.loads(line) for line in self.journal(*matches, output="json").splitlines()]
