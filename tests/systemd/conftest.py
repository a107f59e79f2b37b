"""A machine with systemd for all tests of this directory, and its service as new for each.

Where none can be booted the tests are skipped; with STORELET_REQUIRE_SYSTEMD set they fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine, NoMachineError, do_without
from tests.systemd.service import Service


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """Boot a machine and install the service in it as README.rst says."""
    try:
        machine = Machine.boot()
    except NoMachineError as error:
        do_without("machine with systemd", error)
    try:
        Service(machine).install()
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    """Hand out the service: installed and enabled, stopped, with no job and no past."""
    service = Service(machine)
    service.reset()
    yield service
