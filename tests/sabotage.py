"""Sabotage: takes out what keeps each promise of README.rst, and sees its test turn red.

    python -m tests.sabotage [WORD…]

Each row of the manual's table "What Storelet promises" is here with the line that keeps it, what
that line becomes, and a test. The test is run on a copy of this clone, where it must pass, and once
more with the line changed, where it must fail. WORDs choose the promises they occur in.

Exit status 1: a promise is broken, or nobody would notice if it were. `test_promises` holds the
table to the manual's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROMISES", "Promise"]

CLONE = Path(__file__).resolve().parent.parent
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".demo", ".*_cache", ".hypothesis", "__pycache__"
)


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise, and the protection without which it is broken."""

    text: str  # as in README.rst
    test: str  # in pytest's words
    file: str
    line: str  # some text that is in the file once
    becomes: str


_TIME = "tests/daemon/test_time.py::test_"
_DAEMON = "tests/daemon/test_daemon.py::test_"
_SECURITY = "tests/daemon/test_security.py::test_"
_DATABASES = "tests/daemon/test_databases.py::test_"
_ENCRYPTED = "tests/unit/test_encrypted.py::test_"
_VERIFY = "tests/daemon/test_verify.py::test_"
_SYSTEMD = "tests/systemd/test_service.py::test_"

PROMISES = (
    Promise(
        "What is due while nothing runs is caught up, by one run",
        f"{_TIME}due_times_that_passed_while_it_was_down_make_one_run_and_one_row",
        "storeletd/jobstate.py",
        "self._states = {state.name: state for state in states}",
        "self._states = {state.name: state for state in states[:0]}",
    ),
    Promise(
        "It is recorded as missed where it is not to be caught up",
        f"{_TIME}without_catch_up_they_are_recorded_as_missed",
        "storeletd/planner.py",
        "    if not clock.catch_up:\n        return late_until\n",
        "",
    ),
    Promise(
        "A catch-up is never later than max_late",
        f"{_TIME}what_is_later_than_max_late_is_missed_and_the_rest_caught_up",
        "storeletd/planner.py",
        "    if clock.max_late is None:\n        return clock",
        "    if True:\n        return clock",
    ),
    Promise(
        "A catch-up waits for its destinations",
        f"{_TIME}a_catch_up_waits_for_its_destination_and_no_run_fails_meanwhile",
        "storeletd/planner.py",
        'is_held = cause == "catch-up" and active is None and not clock.is_ready',
        "is_held = False",
    ),
    Promise(
        "It waits no longer than to the next due time",
        f"{_TIME}the_next_due_time_ends_the_waiting",
        "storeletd/planner.py",
        "if is_held and _due(clock, max(since, late_until), until) is None:",
        "if is_held:",
    ),
    Promise(
        "Nothing runs twice after a suspend and a restart",
        f"{_TIME}after_a_suspend_and_a_restart_nothing_runs_twice",
        "storeletd/history.py",
        '"UPDATE job SET decided_until = max(decided_until, ?) WHERE name = ?",',
        '"UPDATE job SET decided_until = min(decided_until, ?) WHERE name = ?",',
    ),
    Promise(
        "A suspend is noticed within half a minute",
        f"{_TIME}a_machine_that_slept_is_noticed_without_anybody_saying_so",
        "storeletd/alarm.py",
        "HEARTBEAT_SECONDS = 30",
        "HEARTBEAT_SECONDS = 3000",
    ),
    Promise(
        "A clock that once showed 2036 silences no job",
        f"{_TIME}a_clock_that_once_showed_2036_does_not_silence_a_job",
        "storeletd/planner.py",
        "return now if ahead > AHEAD else decided_until",
        "return decided_until",
    ),
    Promise(
        "A schedule that is edited loses no due time of before",
        f"{_TIME}a_schedule_that_was_changed_meanwhile_loses_no_night",
        "storeletd/agenda.py",
        "for decision in _decide_old(clock, state, now):",
        "for decision in ():",
    ),
    Promise(
        "Every due time is counted in exactly one row",
        "tests/unit/test_agenda.py::test_another_schedule_makes_no_due_time_of_before_count_anew",
        "storeletd/agenda.py",
        "decided_until = max(state.decided_until, now)",
        "decided_until = now",
    ),
    Promise(
        "A run that the daemon's end cut short is run again",
        f"{_TIME}a_run_that_the_end_of_the_daemon_cut_short_is_run_again",
        "storeletd/run.py",
        "return now if self.run.is_owed_when_cut_short else None",
        "return None",
    ),
    Promise(
        "A lost run is repeated once, and not for ever",
        f"{_TIME}a_lost_run_is_run_again_once",
        "storeletd/records.py",
        'makes_up = self.cause == "catch-up" and self.repeats is not None',
        "makes_up = False",
    ),
    Promise(
        "What failed for what may pass is tried again",
        f"{_TIME}what_may_pass_is_tried_again_so_often_and_then_no_more",
        "storeletd/planner.py",
        "if attempt <= retries else None",
        "if False else None",
    ),
    Promise(
        "What will not pass is not tried again",
        f"{_TIME}what_will_not_pass_is_not_tried_again",
        "storeletd/run.py",
        'if not ended.is_temporary or self.run.cause == "manual":',
        'if self.run.cause == "manual":',
    ),
    Promise(
        "A random delay is the same for ever",
        f"{_TIME}a_random_delay_is_the_same_after_a_restart",
        "storeletd/planner.py",
        'digest = hashlib.sha256(f"{host}\\0{job}".encode(errors="surrogateescape")).digest()',
        'digest = __import__("os").urandom(8)',
    ),
    Promise(
        "A pause survives restarts and editors",
        f"{_TIME}a_pause_survives_restart_and_reload_and_what_is_due_in_it_is_skipped",
        "storeletd/jobstate.py",
        'self.put(replace(state, schedule="", overdue_since=None))',
        'self.put(replace(state, schedule="", overdue_since=None, paused_until=None))',
    ),
    Promise(
        "An overdue job is said once, and its recovery",
        f"{_TIME}an_overdue_job_is_said_once_and_so_is_its_recovery",
        "storeletd/overdue.py",
        "if overdue == (state.overdue_since is not None):",
        "if not overdue:",
    ),
    Promise(
        "A job never runs twice at once",
        f"{_DAEMON}a_job_that_runs_is_not_started_again",
        "storeletd/runner.py",
        "        for run in self.active(job.name, kind):\n            what",
        "        for run in ():\n            what",
    ),
    Promise(
        "A run ends at its timeout",
        f"{_DAEMON}a_run_that_takes_too_long_is_ended",
        "storeletd/limits.py",
        "if self._timeout is not None:",
        "if False:",
    ),
    Promise(
        "A run in which no byte moves ends",
        f"{_DAEMON}a_run_that_moves_no_byte_is_ended",
        "storeletd/limits.py",
        "if self._idle_timeout is not None and not self._is_busy:",
        "if False:",
    ),
    Promise(
        "What does not end when told is killed",
        "tests/daemon/test_worker_faults.py::"
        "test_a_module_that_hangs_and_does_not_want_to_end_is_killed",
        "storeletd/keeper.py",
        "            _signal(processes, signal.SIGKILL)\n",
        "            _signal(processes, signal.SIGTERM)\n",
    ),
    Promise(
        "Nothing of a run outlives a daemon that is killed",
        f"{_DAEMON}a_killed_daemon_leaves_no_process_and_its_run_is_lost",
        "storeletd/keeper.py",
        'in (b"t", b""):',
        'in (b"t",):',
    ),
    Promise(
        "Uploads of runs that died are aborted",
        "tests/daemon/test_uploads.py::test_a_yaml_jobs_lost_upload_is_aborted_at_the_start",
        "storeletd/sweep.py",
        'if job.language == "yaml":',
        "if False:",
    ),
    Promise(
        "A damaged history is kept aside, and backups go on",
        "tests/unit/test_database.py::"
        "test_a_database_damaged_while_it_is_open_is_kept_aside_and_nothing_stops",
        "storeletd/database.py",
        "_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}",
        "_DAMAGED = set()",
    ),
    Promise(
        "A history that is full or locked keeps no run from its work",
        "tests/daemon/test_state_faults.py::"
        "test_on_a_full_disk_backups_go_on_and_their_rows_are_written_when_there_is_room",
        "storeletd/history.py",
        '_log.error("Run %d of %s goes on without its row: %s", run.id, run.job, error)',
        "raise",
    ),
    Promise(
        "A broken job file keeps its last good version, and harms no other",
        f"{_DAEMON}a_broken_file_keeps_its_last_good_version_and_harms_nobody",
        "storeletd/jobdir.py",
        "                job = loaded\n",
        "                job = None\n",
    ),
    Promise(
        "A control socket that is removed is made anew",
        "tests/daemon/test_job_faults.py::test_a_control_socket_that_is_removed_is_bound_anew",
        "storeletd/listener.py",
        "        if _identity(self.path) == self._identity:\n            return False",
        "        if True:\n            return False",
    ),
    Promise(
        "Job files that others may write are refused",
        f"{_DAEMON}a_file_that_others_may_write_is_refused",
        "storeletd/trust.py",
        "not mode & _OTHERS_WRITE or is_sticky:",
        "True:",
    ),
    Promise(
        "A run executes the very text that was checked",
        f"{_SECURITY}a_run_executes_what_was_checked_whatever_the_file_is_by_then",
        "storeletd/worker.py",
        "exec(compile(job.source, job.path",
        "exec(compile(open(job.path).read(), job.path",
    ),
    Promise(
        "The control socket is its group's alone",
        f"{_DAEMON}socket_and_state_are_not_for_everybody",
        "storeletd/listener.py",
        "os.umask(0o117)",
        "os.umask(0)",
    ),
    Promise(
        "Archives and state are their owner's alone",
        f"{_SECURITY}nothing_is_for_others_whatever_the_umask",
        "storelet/destination/directory.py",
        "return os.open(self._directory.path, flags, mode=0o600)",
        "return os.open(self._directory.path, flags, mode=0o644)",
    ),
    Promise(
        "Who asked for a change is in the log",
        "tests/daemon/test_http.py::test_each_changing_request_is_logged_with_who_sent_it",
        "storeletd/intake.py",
        "        await _log_request(request, verb)\n        return response",
        "        return response",
    ),
    Promise(
        "No request takes more memory than 64 KiB",
        "tests/daemon/test_http.py::test_a_body_is_taken_up_to_64_kib",
        "storeletd/intake.py",
        "LARGEST_BODY = 64 << 10",
        "LARGEST_BODY = 64 << 20",
    ),
    Promise(
        "Commands have their user's rights and no others",
        f"{_SECURITY}a_command_loses_the_capability_unless_it_is_to_keep_it",
        "storeletd/rights.py",
        "taken = [] if keep else list(_find_ambient())",
        "taken = []",
    ),
    Promise(
        "Workers and commands get no variable that nobody named",
        f"{_SECURITY}workers_and_commands_get_no_variable_that_nobody_named",
        "storeletd/launch.py",
        "if name in wanted or",
        "if True or",
    ),
    Promise(
        "Secrets are written nowhere",
        f"{_SECURITY}secrets_are_written_nowhere",
        "storeletd/secrets.py",
        '            text = text.replace(value, "***")\n',
        "            pass\n",
    ),
    Promise(
        "Nothing that a file holds shows in an encrypted archive",
        f"{_ENCRYPTED}all_is_there_with_the_password_and_nothing_without",
        "storelet/packing.py",
        "            yield encryptor.update(piece)\n",
        "            encryptor.update(piece)\n            yield piece\n",
    ),
    Promise(
        "No archive has members of two passwords",
        f"{_ENCRYPTED}another_password_is_a_full_archive_and_is_said_once",
        "storelet/delivery.py",
        "            require_password(self.destination, previous, self._encryption)\n",
        "",
    ),
    Promise(
        "A job whose password is not to be had writes nothing",
        "tests/daemon/test_encrypted_jobs.py::"
        "test_without_a_password_nothing_is_written_and_nothing_run",
        "storeletd/destinations.py",
        "    if settings.encryption is None:\n",
        "    if True:\n",
    ),
    Promise(
        "A run whose before fails saves nothing",
        "tests/daemon/test_hooks.py::test_a_before_that_fails_fails_the_run",
        "storeletd/hooks.py",
        '        check_status(status, _name("before"))\n',
        "        pass\n",
    ),
    Promise(
        "After is run whatever becomes of its run",
        "tests/daemon/test_hooks.py::"
        "test_after_a_timeout_they_are_run_also_where_the_run_had_to_be_killed",
        "storeletd/run.py",
        "        await self._see_aftermath(ended)\n        self.finish(ended)\n",
        "        if ended.outcome != 'timeout':\n"
        "            await self._see_aftermath(ended)\n        self.finish(ended)\n",
    ),
    Promise(
        "A restore writes nothing outside its target",
        "tests/unit/test_hostile.py::test_links_that_the_first_restore_made_are_no_way_for_the_second",
        "storelet/restore/target.py",
        "_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
    ),
    Promise(
        "A restore replaces nothing unasked",
        "tests/unit/test_restoring.py::test_nothing_that_is_there_is_replaced_unasked",
        "storelet/restore/survey.py",
        '    if overwrite == "never":\n',
        "    if False:\n",
    ),
    Promise(
        "A restore that was broken off goes on where it stopped",
        "tests/unit/test_restoring.py::test_a_restore_goes_on_where_it_stopped",
        "storelet/restore/survey.py",
        "    if _is_same(path, member, target, found):\n",
        "    if False:\n",
    ),
    Promise(
        "A file that is restored is what was backed up",
        "tests/unit/test_restoring.py::test_what_is_not_right_is_named",
        "storelet/restore/content.py",
        "    if member.has_crc and crc != member.crc:\n",
        "    if False:\n",
    ),
    Promise(
        "A wrong password writes nothing",
        "tests/unit/test_restoring.py::test_without_the_password_nothing_is_written",
        "storelet/restore/opened.py",
        "            if not dry_run:\n",
        "            if False:\n",
    ),
    Promise(
        "The daemon verifies all of an archive in turn",
        f"{_VERIFY}all_is_verified_in_turn_across_restarts",
        "storeletd/run.py",
        "{place: find_next(proofs) for",
        "{place: 0 and find_next(proofs) for",
    ),
    Promise(
        "An archive that failed its verification is marked",
        f"{_VERIFY}an_archive_that_is_not_right_is_a_failed_run_and_reused_no_more",
        "storeletd/proving.py",
        "        archive.mark_bad(wrong[0])\n",
        "",
    ),
    Promise(
        "An archive that failed its verification is not reused",
        "tests/unit/test_reusing.py::"
        "test_nothing_is_copied_from_a_bad_archive_nor_from_older_ones_and_then_it_goes_on",
        "storelet/previous.py",
        "        if archives[-1].is_bad:\n",
        "        if False:\n",
    ),
    Promise(
        "Only archives that this host made for this job are pruned",
        "tests/unit/test_pruning.py::test_only_what_this_host_made_for_this_backup_is_deleted",
        "storelet/pruning.py",
        "(record.job, record.host) != (name, socket.gethostname())",
        "record.job != name",
    ),
    Promise(
        "The newest archives are never pruned",
        "tests/unit/test_pruning.py::test_what_no_rule_keeps_is_deleted",
        "storelet/retention.py",
        "    for number, each in enumerate(archives[: keep.last], 1):\n",
        "    for number, each in enumerate(archives[:0], 1):\n",
    ),
    Promise(
        "Nothing is pruned after a run that was no success",
        "tests/daemon/test_keep.py::test_a_success_prunes_and_nothing_else_does",
        "storeletd/worker.py",
        '    if ended.outcome != "success":\n',
        "    if False:\n",
    ),
    Promise(
        "Nothing is pruned after a run that looks like a disaster",
        f"{_VERIFY}nothing_is_deleted_after_an_archive_that_shrank_until_somebody_says_so",
        "storeletd/brake.py",
        "    if now.bytes * 2 < before.bytes:\n",
        "    if False:\n",
    ),
    Promise(
        "A dump that fails fails the run, and no half of it is kept",
        "tests/unit/test_output.py::test_a_command_that_fails_fails_the_backup_and_nothing_is_kept",
        "storelet/output.py",
        "        if status:\n",
        "        if False:\n",
    ),
    Promise(
        "No command line and no environment has a database's password",
        f"{_DATABASES}the_password_is_on_no_command_line_and_in_no_environment",
        "storeletd/dumps.py",
        'self._known["PGPASSFILE"] = SECRET_FILE',
        'self._known["PGPASSWORD"] = password',
    ),
    Promise(
        "What a database holds is replaced only where that is asked for",
        f"{_DATABASES}what_a_database_holds_is_replaced_only_where_that_is_asked_for",
        "storeletd/ctl/databases.py",
        "    if is_there and not overwrite and is_so(server.tools.count(target)):\n",
        "    if False:\n",
    ),
    Promise(
        "What doctor writes for trial it deletes, and nothing else",
        "tests/contract/test_examinations.py::test_who_stops_in_the_middle_leaves_nothing",
        "storelet/destination/trial.py",
        "        for name in self._names:\n",
        "        for name in ():\n",
    ),
    Promise(
        "Where archives are locked, doctor writes nothing",
        "tests/unit/test_examination.py::test_nothing_is_written_that_would_be_locked",
        "storelet/destination/s3.py",
        "        if self._lock is not None:\n            return",
        "        if False:\n            return",
    ),
    Promise(
        "Init overwrites nothing, and leaves nothing where it is ended",
        "tests/unit/test_ctl_init.py::test_files_are_written_together_or_not_at_all_and_over_none",
        "storeletd/ctl/deposit.py",
        "undo.callback(_Written(path, text).take_back)",
        "_Written(path, text)",
    ),
    Promise(
        "Nothing that others wrote steers a terminal",
        f"{_SECURITY}storeletctl_prints_nothing_that_steers_a_terminal",
        "storeletd/ctl/formats.py",
        "    if text.isprintable():\n        return text\n",
        "    return text\n",
    ),
    Promise(
        "A daemon that hangs is killed and started again",
        f"{_SYSTEMD}a_daemon_whose_event_loop_hangs_is_killed_and_started_again",
        "storeletd/notice.py",
        '            _notify("WATCHDOG=1")\n',
        "",
    ),
    Promise(
        "systemctl stop ends runs in order and leaves no upload",
        f"{_SYSTEMD}a_stop_during_an_upload_aborts_it",
        "packaging/systemd/storeletd.service",
        "KillMode=mixed",
        "KillMode=mixed\nKillSignal=SIGKILL",
    ),
    Promise(
        "After a reboot it is up, and catches up",
        f"{_SYSTEMD}after_a_reboot_it_is_up_and_catches_up",
        "packaging/systemd/storeletd.service",
        "WantedBy=multi-user.target",
        "",
    ),
    Promise(
        "No line of a run's log is dropped",
        f"{_SYSTEMD}no_line_is_dropped_however_many_there_are",
        "packaging/systemd/storeletd.service",
        "LogRateLimitBurst=100000000\n",
        "",
    ),
)


def main(words: list[str]) -> int:
    """Break the chosen promises one by one; return the exit status."""
    chosen = [each for each in PROMISES if all(word in each.text for word in words)]
    failed = 0
    for number, promise in enumerate(chosen, 1):
        verdict = _judge(promise)
        failed += verdict != "red without it"
        print(f"{number:2}/{len(chosen)} {promise.text}: {verdict}", flush=True)  # noqa: T201
    print(f"{len(chosen) - failed} of {len(chosen)} promises are kept by their tests")  # noqa: T201
    return 1 if failed else 0


def _judge(promise: Promise) -> str:
    """Say what becomes of the promise's test without what keeps the promise."""
    with tempfile.TemporaryDirectory(prefix="sabotage-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - tests run it as other users, too
        copy = Path(directory, "clone")
        shutil.copytree(CLONE, copy, symlinks=True, ignore=_LEFT_OUT)
        python = _make_venv(copy)
        if _run(python, copy, promise.test) != 0:
            return "RED, though nothing was taken out"
        file = copy / promise.file
        text = file.read_text(encoding="utf-8")
        if text.count(promise.line) != 1:
            return f"NOT TRIED: {promise.file} has its line {text.count(promise.line)} times"
        file.write_text(text.replace(promise.line, promise.becomes), encoding="utf-8")
        return "red without it" if _run(python, copy, promise.test) == 1 else "STILL GREEN"


def _make_venv(copy: Path) -> Path:
    """Make a Python that imports the copy, also in daemons and workers, and all else from ours."""
    venv.create(copy / ".venv", with_pip=False, symlinks=True)
    packages = next((copy / ".venv" / "lib").glob("python*/site-packages"))
    (packages / "copy.pth").write_text(f"{copy}\n{sysconfig.get_path('purelib')}\n")
    return copy / ".venv" / "bin" / "python"


def _run(python: Path, copy: Path, test: str) -> int:
    """Run a test in the copy; return pytest's status: 0 passed, 1 failed."""
    command = [str(python), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    _end_leftovers(copy)
    if done.returncode == 0 and not re.search(r"\d+ passed", done.stdout):
        return 5  # all skipped: that says nothing
    return done.returncode


def _end_leftovers(copy: Path) -> None:
    """End what a test of broken code left behind: a keeper that does not end, say."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(copy) in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
