"""A job in Python: an ordinary storelet script with its settings at the top.

It is called `documents`, after its file. The daemon reads the settings without running the
script, so they must be plain values; a run executes it in a process of its own. By hand it
works just as well: `python documents.py`.
"""

import pathlib
import platform

import storelet

# The keys of a YAML job in capitals. Only SCHEDULE must be there; "manual" means never by itself.
SCHEDULE = ["Mon..Fri 12:00", "every 12h"]
TIMEOUT = "10m"
CATCH_UP = True  # run once after the machine was off at a due time

CLONE = pathlib.Path("/usr/src/storelet")

with storelet.ZipBackup("documents") as backup:
    # Whatever Python can do may decide what is included.
    for document in sorted(CLONE.glob("*.rst")):
        backup.include_file(document)
    backup.include_directory(CLONE / "packaging", name="packaging")

    # A directory that is there for this block only: fill it, and it is included, then removed.
    with backup.include_new_dir("about") as about:
        pathlib.Path(about.path, "host.txt").write_text(f"{platform.node()}\n")

    backup.save_to_directory("/var/backups/storelet")
