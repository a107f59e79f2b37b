"""The commands `storeletd` and `storeletctl` as pip installs them.

`pip install storelet` brings both along, but not the packages of `storelet[daemon]`. Without these
they say in one line what is missing, and not in a traceback.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

__all__ = ["storeletctl", "storeletd"]

_UNUSABLE = 78  # starting it again would not mend it


def storeletd() -> NoReturn:
    """Run the daemon."""
    _run("storeletd.__main__")


def storeletctl() -> NoReturn:
    """Run the daemon's command line."""
    _run("storeletd.ctl")


def _run(module: str) -> NoReturn:
    try:
        main = import_module(module).main
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "storelet", "storeletd"):
            raise
        sys.stderr.write(
            f"Error: {package} is not installed\nTry: pip install 'storelet[daemon]'\n"
        )
        sys.exit(_UNUSABLE)
    sys.exit(main())
