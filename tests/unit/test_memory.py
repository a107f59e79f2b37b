"""Memory: that of a million files is bounded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import CLONE

# A million files in a thousand directories are planned, written as headers, and compared with the
# archive before. What is not here: helpers (some 15 MB each) and, for S3, five parts of 8 MiB.
MILLION = """
import re
from storelet.layout import Layout
from storelet.matching import PlanMatch, ReusePolicy
from storelet.plan import Plan
from storelet.previous import Members, PreviousArchive
from storelet.entry import Entry
from storelet.zipformat import ArchiveRecord, Member, central_header, member_bytes

class Nowhere:
    def write(self, data):
        pass

NS = 1_000_000_000
record = ArchiveRecord(job="example", host="host", started_ns=2_000_000_000 * NS)
layout, plan = Layout(Nowhere(), record), Plan()
for number in range(1_000_000):
    name = f"project-{number // 50_000:02}/directory-{number // 1000:04}/file-{number:07}.txt"
    times = (1_700_000_000 + number) * NS + number * 7919 % NS
    path = "/srv/data/some/where/" + name
    plan.add(Entry(path, name, 0o100644, 20, times, times, 7, 10 * number, 1, 1000, 1000))
    member = Member(
        name, 0o100644, 1000, 1000, times, times, 10 * number, 20, 0, 1, 0, 0, 1, 20, 20
    )
    layout.add(central_header(member, 0), layout.offset)
    layout.skip(member_bytes(len(name), 24, 20, None))
members = Members(layout.headers(), layout.offset)
live = PlanMatch(plan, ReusePolicy()).find_live(PreviousArchive(None, record, members))
assert live.count(1) == plan.files.count == 1_000_000
# Not ru_maxrss, which begins with the peak of whoever started us.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc/self/status")
def test_a_million_files_take_no_more_than_380_mib() -> None:
    command = [sys.executable, "-c", MILLION]
    peak = int(subprocess.run(command, cwd=CLONE, check=True, stdout=subprocess.PIPE).stdout)
    assert peak < 380
