"""A machine of its own for a service: real systemd and journald, booted by `boot.sh` in 0.3 s.

Its files are an overlay of this machine's, so that nothing done there is seen here, and its
network is this machine's, so that a server on loopback is reached from there. This Python, the
clone and the packages are there too, as an installation in /opt/storelet that everybody may read.
A bare machine has another root directory than this one, and nothing of ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.helpers import CLONE, wait_for

__all__ = ["Machine", "NoMachineError", "do_without"]

_IS_REQUIRED = bool(os.environ.get("STORELET_REQUIRE_SYSTEMD"))  # no test sees it
_BOOT = Path(__file__).with_name("boot.sh")
_PROGRAMS = ("ldconfig", "nsenter", "pivot_root", "runuser", "setpriv", "unshare", "useradd")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POWER_OFF, _REBOOT = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5  # systemd(1)
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PROGRAM = "#!/opt/storelet/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


class NoMachineError(Exception):
    """This machine cannot boot another one; why."""


def do_without(what: str, error: NoMachineError) -> NoReturn:
    """Skip a test; with STORELET_REQUIRE_SYSTEMD set it fails."""
    if _IS_REQUIRED:
        pytest.fail(f"no {what}: {error}")
    pytest.skip(f"no {what}: {error}")


class Machine:
    """A booted machine. Processes, files and units in it are its own, its network is not."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._ended = ExitStack()
        self._top = Path(self._ended.enter_context(tempfile.TemporaryDirectory(prefix="storelet-")))

    @classmethod
    def boot(cls) -> Machine:
        """Boot one, with Storelet installed. Raises NoMachineError."""
        machine = cls()
        with machine._booted(_find_binds()):
            machine._install_storelet()
        return machine

    @classmethod
    def boot_bare(cls, root: Path) -> Machine:
        """Boot what lies in `root`, which stays as it is. Raises NoMachineError."""
        machine = cls(root)
        with machine._booted({}):
            # Its network is this machine's, so names are to be looked up where they are here.
            shutil.copy("/etc/resolv.conf", machine.path("/etc/resolv.conf"))
        return machine

    @contextmanager
    def _booted(self, binds: Mapping[str, str]) -> Iterator[None]:
        """Boot it for what is still to be prepared; where that fails, nothing of it is left."""
        if reason := _find_obstacle():
            raise NoMachineError(reason)
        try:
            self._boot(binds)
            yield
        except BaseException:
            self.stop()
            raise

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as root in it; with `check`, its exit status must be 0."""
        done = self._enter(*command)
        if check and done.returncode != 0:
            journal = self._enter("journalctl", "--quiet", "--lines=20").stdout
            raise AssertionError(f"{command}: {done.stdout}{done.stderr}\n{journal}")
        return done

    def _enter(self, *command: str) -> subprocess.CompletedProcess[str]:
        namespaces = ("--mount", "--uts", "--ipc", "--pid", "--cgroup")
        return subprocess.run(
            ["nsenter", f"--target={self._init}", *namespaces, *command],
            env={"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def shell(self, script: str) -> str:
        """Run a script of bash's as root in it, to its first error; return what it writes."""
        return self.run("bash", "-euc", script).stdout

    def path(self, path: str) -> Path:
        """Return where one of its files is seen from here."""
        return Path(f"/proc/{self._init}/root{path}")

    def reboot(self) -> None:
        """Shut it down in order, and wait until it is up again."""
        before = self._init
        os.kill(before, _REBOOT)
        wait_for(lambda: self._read_init() not in (None, before), seconds=120, what="a reboot")
        self._await_systemd()

    def stop(self) -> None:
        """Pull the plug. Nothing of it is left."""
        with self._ended:
            if (init := self._read_init()) is not None and self._holder.poll() is None:
                os.kill(init, signal.SIGKILL)
                self._holder.wait(30)

    def _boot(self, binds: Mapping[str, str]) -> None:
        (self._top / "memory").mkdir()
        (self._top / "console").touch()
        specs = [f"{source}:{target}" for source, target in binds.items()]
        # Whatever ends pytest ends it, too.
        within = ("setpriv", "--pdeathsig=KILL", "unshare", "--mount")
        with (self._top / "log").open("wb") as log:
            self._holder = subprocess.Popen(
                [*within, "bash", _BOOT, "hold", self._top, self._root, *specs],
                env={"PATH": _PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(
            lambda: self._read_init() is not None or self._holder.poll() is not None,
            seconds=30,
            what="boot.sh",
        )
        if self._read_init() is None:
            raise NoMachineError((self._top / "log").read_text().strip())
        self._await_systemd()

    def _await_systemd(self) -> None:
        def is_running() -> bool:
            said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            assert said != "degraded", self.run("systemctl", "--failed", "--no-legend").stdout
            assert self._holder.poll() is None, self._describe()
            return said == "running"

        wait_for(is_running, seconds=60, what="systemd to be up")

    def _describe(self) -> str:
        return (self._top / "log").read_text() + (self._top / "console").read_text()

    def _read_init(self) -> int | None:
        """Return systemd's process id here; None between boots."""
        try:
            return int((self._top / "init.pid").read_text())
        except (OSError, ValueError):
            return None

    @property
    def _init(self) -> int:
        init = self._read_init()
        assert init is not None, "the machine is off"
        return init

    def _install_storelet(self) -> None:
        """Make /opt/storelet as README.rst does, but that the packages are where they are."""
        self.run("ldconfig", "/opt/python/lib")  # where Python has a library of its own
        self.run(f"/opt/python/bin/{_PYTHON}", "-m", "venv", "--clear", "--without-pip", _OPT)
        packages = self.path(f"{_OPT}/lib/{_PYTHON}/site-packages/storelet.pth")
        packages.write_text("\n".join(_find_binds().values()))
        for name, module in (("storeletd", "storeletd.__main__"), ("storeletctl", "storeletd.ctl")):
            program = self.path(f"{_OPT}/bin/{name}")
            program.write_text(_PROGRAM.format(module=module))
            program.chmod(0o755)


_OPT = "/opt/storelet"


def _find_obstacle() -> str | None:
    """Say why no machine can be booted, as far as one sees beforehand."""
    if os.geteuid() != 0:
        return "only root may boot a machine"
    if missing := [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]:
        return f"not installed: {', '.join(missing)}"
    if not Path("/lib/systemd/systemd").exists():
        return "systemd is not installed"
    return None


def _find_binds() -> dict[str, str]:
    """Map what the installation needs to its place in the machine.

    Where it is here, others may not look (/root), or a service sees something else (/tmp).
    """
    return {sys.base_prefix: "/opt/python", str(CLONE): "/opt/clone"} | {
        str(path): f"/opt/{number}-packages" for number, path in enumerate(_find_packages())
    }


def _find_packages() -> Iterator[Path]:
    paths = (Path(path) for path in sys.path)
    return (path for path in paths if path.name.endswith("-packages") and path.is_dir())
