"""The job directory: what a scan finds, what it refuses, what it keeps; what wakes it."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from freezegun import freeze_time

from storeletd.jobdir import Change, JobDirectory
from storeletd.jobs import JobProblem
from storeletd.trust import open_trusted

GOOD = "schedule: manual\ninclude: [{directory: /srv}]\nsave: [{directory: /mnt}]\n"
MODULE = 'SCHEDULE = "manual"\n'
STRANGER = 12_345  # a uid nobody has

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def jobs(job_dir: Path) -> JobDirectory:
    return JobDirectory(job_dir)


def write(path: Path, text: str = GOOD, *, seconds_ago: float = 0) -> Path:
    path.write_text(text)
    path.chmod(0o644)
    if seconds_ago:
        then = time.time() - seconds_ago
        os.utime(path, (then, then))
    return path


def names(change: Change) -> dict[str, tuple[str, ...]]:
    found = {what: getattr(change, what) for what in ("added", "changed", "removed")}
    return {what: several for what, several in found.items() if several}


def only_problem(jobs: JobDirectory, path: Path) -> JobProblem:
    assert len(jobs.problems) == 1, jobs.problems
    assert jobs.problems[0].file == str(path)
    return jobs.problems[0]


# Files come, change and go


def test_empty_directory_has_no_jobs_and_no_problems(jobs: JobDirectory) -> None:
    assert jobs.scan() == Change()
    assert dict(jobs.jobs) == {}


def test_jobs_are_added_changed_and_removed(job_dir: Path, jobs: JobDirectory) -> None:
    write(job_dir / "b.yaml")
    write(job_dir / "a.py", MODULE)
    assert names(jobs.scan()) == {"added": ("a", "b")}
    assert list(jobs.jobs) == ["a", "b"]
    assert names(jobs.scan()) == {}
    write(job_dir / "b.yaml", GOOD + "timeout: 1h\n")
    write(job_dir / "c.yml")
    assert names(jobs.scan()) == {"added": ("c",), "changed": ("b",)}
    (job_dir / "a.py").unlink()
    assert names(jobs.scan()) == {"removed": ("a",)}
    assert list(jobs.jobs) == ["b", "c"]


def test_what_is_no_job_file_is_passed_over(job_dir: Path, jobs: JobDirectory) -> None:
    for name in (
        *(".hidden.yaml", "a.yaml~", "a.yaml.disabled", "a.disabled", "a.yaml.dpkg-old"),
        *("a.dpkg-new.yaml", "a.py.rpmsave", "a.yaml.rpmnew", ".a.yaml.swp", "a.yaml.swp"),
        *("README", "a.json", "a.pyc", "a.yaml.bak", "py", ".py"),
    ):
        write(job_dir / name, "no job")
    (job_dir / "helpers").mkdir()
    write(job_dir / "helpers" / "a.py", "no job")
    assert jobs.scan() == Change()


def test_change_of_the_same_size_within_the_same_tick_is_seen(
    job_dir: Path, jobs: JobDirectory
) -> None:
    for minute in range(10, 60):
        path = write(job_dir / "a.yaml", GOOD.replace("manual", f"{minute} 2 * * *"))
        os.utime(path, (10**9, 10**9))
        jobs.scan()
        assert jobs.jobs["a"].settings.schedule.texts == (f"{minute} 2 * * *",)


def test_unchanged_files_are_not_read_again(job_dir: Path, jobs: JobDirectory) -> None:
    path = write(job_dir / "a.yaml")
    write(job_dir / "broken.yaml", "x: y\n")
    jobs.scan()
    job, problems = jobs.jobs["a"], jobs.problems
    path.touch()  # no change of what it says
    assert names(jobs.scan()) == {}
    assert jobs.jobs["a"] is job
    assert jobs.problems == problems


def test_file_that_has_settled_is_known_by_its_stat(job_dir: Path, jobs: JobDirectory) -> None:
    path = write(job_dir / "a.yaml")
    with freeze_time(datetime.now(UTC) + timedelta(hours=1)):
        jobs.scan()
        job = jobs.jobs["a"]
        assert jobs.scan() == Change()
        assert jobs.jobs["a"] is job
        changed = write(path, GOOD.replace("/srv", "/opt"))
        os.utime(changed, (1, 1))
        assert names(jobs.scan()) == {"changed": ("a",)}
        path.chmod(0o666)
        jobs.scan()
        assert only_problem(jobs, path)


@pytest.mark.parametrize("seconds_ago", [0, 60])
def test_file_replaced_by_rename_is_seen(
    job_dir: Path, jobs: JobDirectory, seconds_ago: float
) -> None:
    write(job_dir / "a.yaml", seconds_ago=seconds_ago)
    jobs.scan()
    changed = GOOD.replace("/srv", "/opt")
    write(job_dir / "a.new", changed, seconds_ago=seconds_ago).rename(job_dir / "a.yaml")
    assert names(jobs.scan()) == {"changed": ("a",)}
    assert jobs.jobs["a"].source == changed


# The last good version


def test_broken_file_hurts_no_other_and_leaves_its_last_good_version(
    job_dir: Path, jobs: JobDirectory
) -> None:
    write(job_dir / "a.yaml")
    write(job_dir / "b.yaml")
    jobs.scan()
    good = jobs.jobs["a"]
    write(job_dir / "a.yaml", "schedule: 99 2 * * *\nweather: 3\n")
    write(job_dir / "b.yaml", GOOD + "timeout: 1h\n")
    change = jobs.scan()
    assert names(change) == {"changed": ("b",)}
    assert jobs.jobs["a"] is good
    assert {(each.file, each.key) for each in change.problems} == {
        (str(job_dir / "a.yaml"), key) for key in ("schedule", "weather", "include", "save")
    }
    assert jobs.scan().problems == change.problems == jobs.problems
    write(job_dir / "a.yaml")
    assert jobs.scan() == Change()
    write(job_dir / "a.yaml", "broken: yes\n")
    jobs.scan()
    (job_dir / "a.yaml").unlink()
    assert names(jobs.scan()) == {"removed": ("a",)}
    assert jobs.problems == ()


def test_file_broken_from_the_start_is_no_job(job_dir: Path, jobs: JobDirectory) -> None:
    path = write(job_dir / "a.yaml", GOOD + "weather: 3\n")
    assert names(jobs.scan()) == {}
    assert only_problem(jobs, path).key == "weather"


def test_what_is_no_regular_file_is_a_problem_and_never_blocks(
    job_dir: Path, jobs: JobDirectory
) -> None:
    os.mkfifo(job_dir / "fifo.yaml", 0o600)
    (job_dir / "directory.yaml").mkdir(0o700)
    (job_dir / "dangling.py").symlink_to("nowhere")
    write(job_dir / "good.yaml")
    assert names(jobs.scan()) == {"added": ("good",)}
    assert [Path(each.file).name for each in jobs.problems] == [
        *("dangling.py", "directory.yaml", "fifo.yaml")
    ]


# Two files of one name


def test_two_files_of_one_name_are_both_refused(job_dir: Path, jobs: JobDirectory) -> None:
    write(job_dir / "a.yaml")
    write(job_dir / "a.py", MODULE)
    write(job_dir / "b.yaml")
    assert names(jobs.scan()) == {"added": ("b",)}
    assert {(Path(each.file).name, each.message) for each in jobs.problems} == {
        ("a.py", "job a is declared by a.yaml too"),
        ("a.yaml", "job a is declared by a.py too"),
    }
    (job_dir / "a.py").unlink()
    assert names(jobs.scan()) == {"added": ("a",)}
    assert jobs.problems == ()


def test_of_two_files_of_one_name_the_loaded_one_stays(job_dir: Path, jobs: JobDirectory) -> None:
    write(job_dir / "a.yaml")
    jobs.scan()
    second = write(job_dir / "a.py", MODULE)
    assert names(jobs.scan()) == {}
    assert jobs.jobs["a"].language == "yaml"
    assert only_problem(jobs, second).hint
    write(job_dir / "a.yaml", GOOD + "timeout: 1h\n")
    assert names(jobs.scan()) == {"changed": ("a",)}
    write(job_dir / "a.yaml", "broken")
    assert names(jobs.scan()) == {}
    assert jobs.jobs["a"].language == "yaml"
    (job_dir / "a.yaml").unlink()
    assert names(jobs.scan()) == {"changed": ("a",)}
    assert jobs.jobs["a"].language == "python"


# Trust


@pytest.mark.parametrize(("mode", "who"), [(0o664, "its group"), (0o646, "everybody")])
def test_file_that_others_may_write_is_refused(
    job_dir: Path, jobs: JobDirectory, mode: int, who: str
) -> None:
    path = write(job_dir / "a.yaml")
    jobs.scan()
    write(job_dir / "a.yaml", GOOD + "timeout: 1h\n").chmod(mode)
    assert names(jobs.scan()) == {}
    assert jobs.jobs["a"].settings.timeout is None
    problem = only_problem(jobs, path)
    assert problem.message == f"is writable by {who} (mode {mode:04o})"
    assert problem.hint == f"chmod go-w {path}"
    path.chmod(0o644)
    assert names(jobs.scan()) == {"changed": ("a",)}
    path.chmod(mode)
    jobs.scan()
    assert only_problem(jobs, path)
    path.chmod(0o600)
    assert jobs.scan() == Change()


@needs_root
def test_file_of_a_stranger_is_refused(job_dir: Path, jobs: JobDirectory) -> None:
    path = write(job_dir / "a.yaml")
    os.chown(path, STRANGER, -1)
    assert names(jobs.scan()) == {}
    problem = only_problem(jobs, path)
    assert problem.message == f"belongs to {STRANGER}, not to root"
    assert problem.hint == f"chown root {path}"
    os.chown(path, 0, -1)
    assert names(jobs.scan()) == {"added": ("a",)}


@needs_root
def test_files_of_root_and_of_the_owner_are_trusted(job_dir: Path) -> None:
    write(job_dir / "a.yaml")
    os.chown(write(job_dir / "b.yaml"), STRANGER, -1)
    jobs = JobDirectory(job_dir, owner=STRANGER)
    assert names(jobs.scan()) == {"added": ("a", "b")}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_directory_that_others_may_write_changes_nothing(
    job_dir: Path, jobs: JobDirectory, mode: int
) -> None:
    write(job_dir / "a.yaml")
    jobs.scan()
    write(job_dir / "b.yaml")
    (job_dir / "a.yaml").unlink()
    job_dir.chmod(mode)
    assert names(jobs.scan()) == {}
    assert list(jobs.jobs) == ["a"]
    problem = only_problem(jobs, job_dir)
    assert f"(mode {mode:04o})" in problem.message
    assert problem.hint == f"chmod go-w {job_dir}"
    job_dir.chmod(0o755)
    assert names(jobs.scan()) == {"added": ("b",), "removed": ("a",)}


def test_parent_that_others_may_write_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    path = parent / "jobs"
    path.mkdir(parents=True, mode=0o755)
    write(path / "a.yaml")
    jobs = JobDirectory(path)
    parent.chmod(0o777)
    jobs.scan()
    assert f"{parent} is writable by everybody" in only_problem(jobs, path).message
    parent.chmod(0o1777)
    assert names(jobs.scan()) == {"added": ("a",)}


@needs_root
def test_parent_of_a_stranger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "jobs"
    path.mkdir(parents=True, mode=0o755)
    os.chown(path.parent, STRANGER, -1)
    jobs = JobDirectory(path)
    jobs.scan()
    assert f"{path.parent} belongs to {STRANGER}" in only_problem(jobs, path).message


def test_link_is_followed_where_all_on_the_way_is_trusted(
    tmp_path: Path, job_dir: Path, jobs: JobDirectory
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    write(elsewhere / "real.yaml")
    (elsewhere / "middle").symlink_to("../elsewhere/real.yaml")
    (job_dir / "a.yaml").symlink_to(elsewhere / "middle")
    assert names(jobs.scan()) == {"added": ("a",)}
    assert jobs.jobs["a"].path == str(job_dir / "a.yaml")
    write(elsewhere / "real.yaml", GOOD + "timeout: 1h\n")
    assert names(jobs.scan()) == {"changed": ("a",)}
    elsewhere.chmod(0o777)
    assert names(jobs.scan()) == {}
    problem = only_problem(jobs, job_dir / "a.yaml")
    assert problem.message.startswith(f"{elsewhere} is writable by everybody")


@needs_root
def test_link_of_a_stranger_in_a_sticky_directory_is_refused(
    tmp_path: Path, job_dir: Path, jobs: JobDirectory
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to(write(tmp_path / "real.yaml"))
    (job_dir / "a.yaml").symlink_to(shared / "link")
    assert names(jobs.scan()) == {"added": ("a",)}
    os.chown(shared / "link", STRANGER, -1, follow_symlinks=False)
    jobs.scan()
    assert f"belongs to {STRANGER}" in only_problem(jobs, job_dir / "a.yaml").message


def test_job_directory_may_be_a_link_itself(tmp_path: Path, job_dir: Path) -> None:
    write(job_dir / "a.yaml")
    (tmp_path / "link").symlink_to("jobs")
    assert names(JobDirectory(tmp_path / "link").scan()) == {"added": ("a",)}
    job_dir.chmod(0o777)
    jobs = JobDirectory(tmp_path / "link")
    jobs.scan()
    assert str(job_dir) in only_problem(jobs, tmp_path / "link").message


def test_ring_of_links_is_an_error_and_no_endless_walk(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="levels of symbolic links"):
        open_trusted(str(tmp_path / "a"), os.geteuid()).__enter__()


# A race: whatever is put in the place of what was checked, and when


EVIL = GOOD + "timeout: 1h\n"


def put_link_to_evil_directory(job_dir: Path, evil: Path) -> None:
    job_dir.rename(job_dir.with_name("away"))
    job_dir.symlink_to(evil)


def put_evil_directory(job_dir: Path, evil: Path) -> None:
    job_dir.rename(job_dir.with_name("away"))
    evil.rename(job_dir)


def put_link_to_evil_file(job_dir: Path, evil: Path) -> None:
    (job_dir / "a.yaml").unlink()
    (job_dir / "a.yaml").symlink_to(evil / "a.yaml")


def put_evil_file(job_dir: Path, evil: Path) -> None:
    (evil / "a.yaml").chmod(0o666)
    (evil / "a.yaml").rename(job_dir / "a.yaml")


def turn_link_to_evil_file(job_dir: Path, evil: Path) -> None:
    (job_dir.parent / "link").unlink()
    (job_dir.parent / "link").symlink_to(evil)


@pytest.mark.parametrize(
    "swap",
    [
        put_link_to_evil_directory,
        put_evil_directory,
        put_link_to_evil_file,
        put_evil_file,
        turn_link_to_evil_file,
    ],
)
def test_what_is_swapped_between_check_and_use_is_never_loaded(
    swap: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is swapped before each single call to the system that a scan makes."""
    left = 0  # calls until it is swapped
    done = False

    def hook(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            nonlocal left, done
            left -= 1
            if left < 0 and not done:
                done = True
                swap(top / "jobs", top / "evil")
            return real(*arguments, **keywords)

        return call

    number, done = 0, True
    while done:
        top = tmp_path / str(number)
        for name, text, mode in (
            ("good", GOOD, 0o755),
            ("jobs", GOOD, 0o755),
            ("evil", EVIL, 0o777),
        ):
            (top / name).mkdir(parents=True)
            (top / name).chmod(mode)
            write(top / name / "a.yaml", text)
        write(top / "jobs" / "b.yaml")
        (top / "link").symlink_to("good")
        if swap is turn_link_to_evil_file:
            (top / "jobs" / "a.yaml").unlink()
            (top / "jobs" / "a.yaml").symlink_to("../link/a.yaml")
        jobs = JobDirectory(top / "jobs")
        left, done = number, False
        with monkeypatch.context() as patch:
            for name in ("fstat", "listdir", "lstat", "open", "readlink", "stat"):
                patch.setattr(os, name, hook(getattr(os, name)))
            jobs.scan()
        assert [job.source for job in jobs.jobs.values() if job.source != GOOD] == [], number
        assert "b" in jobs.jobs or not jobs.jobs, number  # all of one directory, or nothing
        number += 1
    assert number > 10  # calls


def test_an_acl_that_lets_others_write_counts(job_dir: Path, jobs: JobDirectory) -> None:
    path = write(job_dir / "a.yaml")
    # acl(5) as setxattr(2) takes it: a tag, permissions and whose they are; the mask last but one.
    entries = [(1, 6, -1), (2, 6, STRANGER), (4, 4, -1), (16, 6, -1), (32, 4, -1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", value)
    except OSError as error:
        pytest.skip(f"this file system has no ACLs: {error}")
    jobs.scan()
    assert "is writable by its group" in only_problem(jobs, path).message


# The directory itself


def test_missing_directory_removes_no_job(job_dir: Path, jobs: JobDirectory) -> None:
    write(job_dir / "a.yaml")
    jobs.scan()
    job_dir.rename(job_dir.with_name("away"))
    assert names(jobs.scan()) == {}
    assert list(jobs.jobs) == ["a"]
    reason = "job directory cannot be read: no such file or directory"
    assert only_problem(jobs, job_dir).message == f"{reason}; its jobs stay as they were"
    job_dir.with_name("away").rename(job_dir)
    assert jobs.scan() == Change()


def test_missing_directory_that_gave_no_jobs_says_nothing_of_them(tmp_path: Path) -> None:
    jobs = JobDirectory(tmp_path / "missing")
    jobs.scan()
    message = only_problem(jobs, jobs.path).message
    assert message == "job directory cannot be read: no such file or directory"


def test_directory_that_is_a_file_is_one_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "jobs")
    jobs = JobDirectory(path)
    jobs.scan()
    assert "not a directory" in only_problem(jobs, path).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0, 0o400, 0o300])
def test_directory_that_may_not_be_read_removes_no_job(
    job_dir: Path, jobs: JobDirectory, mode: int
) -> None:
    write(job_dir / "a.yaml")
    jobs.scan()
    job_dir.chmod(mode)
    assert names(jobs.scan()) == {}
    assert list(jobs.jobs) == ["a"]
    assert "permission denied" in jobs.problems[0].message
    job_dir.chmod(0o700)
    assert jobs.scan() == Change()


def test_path_may_be_relative(job_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job_dir.parent)
    jobs = JobDirectory(Path("jobs"))
    monkeypatch.chdir("/")
    write(job_dir / "a.yaml")
    assert names(jobs.scan()) == {"added": ("a",)}
    assert jobs.jobs["a"].path == str(job_dir / "a.yaml")


# The watch


class Watching:
    """A watch that counts its wake-ups."""

    def __init__(self, jobs: JobDirectory) -> None:
        self.wakes = 0
        self._jobs = jobs
        self._task = asyncio.create_task(self._count())

    async def _count(self) -> None:
        async for _ in self._jobs.watch():
            self.wakes += 1

    async def wakes_after(self, act: Callable[[], object]) -> None:
        """Wait until nothing happens any more, act, and expect a wake-up within 2 s."""
        before = -1
        while before != self.wakes:  # what happened before must not count
            before = self.wakes
            await asyncio.sleep(0.7)
        act()
        deadline = time.monotonic() + 2
        while self.wakes == before:
            assert not self._task.done(), self._task
            assert time.monotonic() < deadline, "no wake-up"
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await self._task
        assert time.monotonic() - started < 1


def watch(jobs: JobDirectory, story: Callable[[Watching], Awaitable[None]]) -> None:
    async def run() -> None:
        watching = Watching(jobs)
        await story(watching)
        await watching.stop()

    asyncio.run(run())


def test_watch_wakes_when_files_come_change_and_go(job_dir: Path, jobs: JobDirectory) -> None:
    path = job_dir / "a.yaml"

    async def story(watching: Watching) -> None:
        await watching.wakes_after(lambda: write(path))
        await watching.wakes_after(lambda: path.write_text("changed"))
        await watching.wakes_after(lambda: path.chmod(0o600))
        await watching.wakes_after(lambda: path.rename(job_dir / "b.yaml"))
        await watching.wakes_after(lambda: (job_dir / "b.yaml").unlink())

    watch(jobs, story)


def test_watch_survives_a_directory_that_is_absent_removed_and_replaced(
    job_dir: Path, jobs: JobDirectory
) -> None:
    job_dir.rmdir()

    def replace() -> None:
        job_dir.rename(job_dir.with_name("old"))
        job_dir.mkdir()

    async def story(watching: Watching) -> None:
        await watching.wakes_after(job_dir.mkdir)
        await watching.wakes_after(lambda: write(job_dir / "a.yaml"))
        await watching.wakes_after(replace)
        await watching.wakes_after(lambda: write(job_dir / "b.yaml"))
        await watching.wakes_after(lambda: shutil.rmtree(job_dir))
        await watching.wakes_after(job_dir.mkdir)
        await watching.wakes_after(lambda: write(job_dir / "c.yaml"))

    watch(jobs, story)


def test_watch_of_a_quiet_directory_is_quiet(job_dir: Path, jobs: JobDirectory) -> None:
    async def story(watching: Watching) -> None:
        await watching.wakes_after(lambda: write(job_dir / "a.yaml"))
        await asyncio.sleep(0.3)
        before = watching.wakes
        await asyncio.sleep(1.5)
        assert watching.wakes == before

    watch(jobs, story)


def test_many_changes_are_few_wakes(job_dir: Path, jobs: JobDirectory) -> None:
    async def story(watching: Watching) -> None:
        await watching.wakes_after(lambda: write(job_dir / "first.yaml"))
        before, started = watching.wakes, time.monotonic()
        for number in range(100):
            write(job_dir / f"job{number}.yaml")
            await asyncio.sleep(0.005)
        took = time.monotonic() - started
        assert watching.wakes - before <= took / 0.1 + 1

    watch(jobs, story)


def test_watch_can_be_closed_between_two_wakes(jobs: JobDirectory) -> None:
    async def run() -> None:
        async for _ in (wakes := jobs.watch()):
            break
        await wakes.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(run(), timeout=5))
