"""The Debian package, as it is built here, and a bare Debian to install it in."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.helpers import CLONE
from tests.systemd.machine import NoMachineError

__all__ = ["build_package", "find_root", "raise_version"]

_PROGRAMS = ("dh", "dpkg-buildpackage", "dpkg-deb", "mmdebstrap", "apt-get")
_FORM = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
_QUICK = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}


def build_package(directory: Path) -> None:
    """Build it into a directory. Raises NoMachineError where that is not possible."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        raise NoMachineError(f"not installed: {', '.join(missing)}")
    command = [CLONE / "packaging" / "debian" / "build", directory]
    done = _run(command, environment=_QUICK)
    assert done.returncode == 0, done.stderr


def raise_version(package: Path, directory: Path) -> Path:
    """Return the same package with a higher version."""
    tree = directory / "tree"
    _run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    lines = control.read_text().splitlines()
    raised = [f"{line}+newer" if line.startswith("Version: ") else line for line in lines]
    control.write_text("\n".join([*raised, ""]))
    newer = directory / "newer.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", tree, newer]
    _run(command, environment=_QUICK, check=True)
    shutil.rmtree(tree)
    return newer


def find_root() -> Path:
    """Return the root directory of a bare Debian, of this machine's release.

    It is made once for all runs of the tests and kept in the user's cache; nothing may be changed
    in it. Its packages come from where this machine gets its own.
    """
    release = _read_release()
    if release.get("ID") != "debian":
        raise NoMachineError("this is not Debian")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "storelet-tests"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = cache / f"debian-{release['VERSION_CODENAME']}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _make_root(release["VERSION_CODENAME"], root)
    return root


def _make_root(release: str, root: Path) -> None:
    command = ["apt-get", "indextargets", f"--format={_FORM}", "Created-By: Packages"]
    sources = _run([*command, "Origin: Debian"], check=True).stdout
    making = root.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    command = [
        "mmdebstrap",
        "--variant=apt",
        "--include=systemd,libpam-runtime",
        "--format=directory",
    ]
    for setting in _run(["apt-config", "dump"], check=True).stdout.splitlines():
        if setting.startswith(("Acquire::http", "Acquire::https")):  # such as a proxy
            command.append(f"--aptopt={setting}")
    done = _run([*command, release, making, *(["-"] if sources else [])], text=sources)
    if done.returncode != 0:
        raise NoMachineError(f"mmdebstrap: {done.stderr.strip().splitlines()[-1]}")
    making.rename(root)


def _read_release() -> dict[str, str]:
    text = Path("/etc/os-release").read_text()
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name: value.strip('"') for name, value in pairs}


def _run(
    command: list[str | Path],
    *,
    text: str = "",
    environment: dict[str, str] | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        input=text,
        capture_output=True,
        text=True,
        check=check,
        timeout=900,
    )
