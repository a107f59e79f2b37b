"""Makes a virtual environment part of a package: bundle.py VENV COPYRIGHT.

What is not needed goes, what has its place elsewhere in Debian points there, and nothing has the
path it was built under. COPYRIGHT gets whose each package is, and on which terms.
"""

from __future__ import annotations

import re
import shutil
import sys
from email import message_from_string
from email.message import Message
from pathlib import Path

HOME = Path("/usr/lib/storelet")
COMMANDS = {"storeletd", "storeletctl"}
# botocore describes 400 services; these are ours, and those that its credentials may come from.
SERVICES = {"s3", "signin", "sso", "sso-oidc", "sts"}
# Whom a store's certificate is trusted by is said by the administrator, as for all else.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
APACHE = "/usr/share/common-licenses/Apache-2.0"


def main() -> None:
    """Do it."""
    environment, copyright_file = (Path(each) for each in sys.argv[1:])
    (packages,) = environment.glob("lib/python3*/site-packages")
    trim(environment, packages)
    relocate(environment)
    copyright_file.write_text("\n".join(describe_all(packages)), encoding="utf-8")
    for directory in packages.glob("*.dist-info"):
        for path in [*find_texts(directory), *find_records(directory)]:
            path.unlink()


def trim(environment: Path, packages: Path) -> None:
    """Take out what is not used."""
    for path in (environment / "bin").iterdir():
        if path.name not in COMMANDS and not path.name.startswith("python"):
            path.unlink()
    shutil.rmtree(environment / "include")
    for name in (".gitignore", "lib64"):
        (environment / name).unlink(missing_ok=True)
    for data in (packages / "botocore" / "data").iterdir():
        if data.is_dir() and data.name not in SERVICES:
            shutil.rmtree(data)
    for tests in ("Cryptodome/SelfTest", "certifi/tests"):
        shutil.rmtree(packages / tests, ignore_errors=True)
    # Debian's tzdata, which is kept up to date
    for path in [packages / "tzdata", *packages.glob("tzdata-*.dist-info")]:
        shutil.rmtree(path)
    for package in ("botocore", "certifi"):
        path = packages / package / "cacert.pem"
        path.unlink()
        path.symlink_to(AUTHORITIES)


def relocate(environment: Path) -> None:
    """Name the place where it will be, in place of the one where it was made."""
    for name in COMMANDS:
        path = environment / "bin" / name
        path.write_text(re.sub("^#!.*", f"#!{HOME}/bin/python3", path.read_text(), count=1))
    config = environment / "pyvenv.cfg"
    lines = config.read_text().splitlines()
    config.write_text("".join(f"{line}\n" for line in lines if not line.startswith("command")))


def describe_all(packages: Path) -> list[str]:
    """Return the copyright file's lines."""
    told: dict[str, str] = {}  # a text, and which package was the first to have it
    lines = ["Storelet comes with the Python packages it needs, in /usr/lib/storelet.", ""]
    directories = sorted(packages.glob("*.dist-info"), key=lambda path: path.name.lower())
    for directory in sorted(directories, key=lambda path: not path.name.startswith("storelet-")):
        about = message_from_string((directory / "METADATA").read_text(encoding="utf-8"))
        title = f"{about['Name']} {about['Version']}"
        lines += [title, "=" * len(title), "", f"Licence: {name_licence(about)}"]
        authors = [about[key] for key in ("Author", "Author-email", "Maintainer") if about[key]]
        lines += [f"Author: {authors[0]}" if authors else "", ""]
        for path in find_texts(directory):
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            key = " ".join(text.split())
            if "Apache License" in key and "TERMS AND CONDITIONS FOR USE" in key:
                text = f"The text of the Apache License 2.0 is in {APACHE}."
            elif key in told:
                text = f"The text is that of {told[key]}, above."
            told.setdefault(key, title)
            lines += [text, ""]
    return lines


def name_licence(about: Message) -> str:
    """Return what a package says its licence is."""
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in about.get_all("Classifier", [])
        if each.startswith("License :: ")
    ]
    stated = about["License-Expression"] or about["License"] or ""
    return stated.partition("\n")[0] or ", ".join(classifiers) or "see below"


def find_texts(directory: Path) -> list[Path]:
    """List the files in which a package gives its licence."""
    pattern = re.compile("licen[sc]e|copying|notice|copyright", re.IGNORECASE)
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in files if pattern.search(path.name))


def find_records(directory: Path) -> list[Path]:
    """List the files in which pip remembers what it put where, and from where."""
    names = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    return [path for name in names if (path := directory / name).exists()]


if __name__ == "__main__":
    main()
