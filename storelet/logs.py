"""Logging as Storelet's scripts expect it: one call, sensible defaults, standard output.

Everything is logged under the logger `storelet`: each file under its child `storelet.files` at
INFO, what was saved at INFO, what was left out at WARNING, temporary files and walking at DEBUG.
Importing Storelet configures nothing.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

__all__ = ["LOGGING_DEFAULTS", "setup_logging"]

LOGGING_DEFAULTS: dict[str, Any] = {
    "format": "%(asctime)s [%(levelname)s]: %(message)s",
    "level": logging.INFO,
}


def setup_logging(**kwargs: Any) -> None:
    """Set logging up with `LOGGING_DEFAULTS`; keywords take precedence.

    The keywords are those of `logging.basicConfig` and, as there, a root logger that has
    handlers already is left alone unless `force=True`.
    """
    options = {**LOGGING_DEFAULTS, **kwargs}
    if not options.keys() & {"stream", "filename", "handlers"}:
        options["stream"] = sys.stdout
    logging.basicConfig(**options)
    boto = logging.getLogger("botocore")
    if logging.root.level < logging.INFO and boto.level == logging.NOTSET:
        boto.setLevel(logging.INFO)  # below, it logs session tokens and signatures
