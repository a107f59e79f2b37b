"""storeletd.service under real systemd and journald, as README.rst has it installed."""

from __future__ import annotations

import io
import json
import re
import textwrap
import time
import zipfile

import pytest

from storeletd.journal import MESSAGE_IDS
from tests.helpers import SECRET_KEY, Bucket, wait_for
from tests.proxy import Proxy
from tests.systemd.machine import Machine
from tests.systemd.service import Service

SLEEPER = """\
SCHEDULE = "manual"
import subprocess, time
subprocess.Popen(["sleep", "1000"], start_new_session=True)
time.sleep(1000)
"""


def give_credentials(service: Service, bucket: Bucket) -> None:
    """Give the service a bucket's keys, as files of root's."""
    for name, key in (("s3-access-key", bucket.access_key), ("s3-secret-key", bucket.secret_key)):
        path = service.machine.path(f"/etc/storelet/{name}")
        path.write_text(f"{key}\n")
        path.chmod(0o600)
        service.change(f"LoadCredential={name}:/etc/storelet/{name}")


def write_s3_job(service: Service, bucket: Bucket, source: str, endpoint: str = "") -> None:
    """Drop job web, which has its keys from credentials."""
    service.write_job(
        "web.yaml",
        f"""\
        schedule: manual
        include: [{{directory: {source}}}]
        save:
          - s3: {bucket.name}
            endpoint_url: {endpoint or bucket.endpoint}
            region_name: us-east-1
            access_key: {{credential: s3-access-key}}
            secret_key: {{credential: s3-secret-key}}
        """,
    )


def make_source(machine: Machine) -> str:
    """Make a directory that only root may read; return its path in the machine."""
    machine.shell("rm -rf /srv/www; install -D -m 600 /dev/null /srv/www/index.html")
    machine.shell("echo hello >/srv/www/index.html; chmod 700 /srv/www")
    return "/srv/www"


def start_sleeper(service: Service) -> int:
    """Start a run that never ends, with a process that hides; return the daemon's process."""
    service.write_job("web.py", SLEEPER)
    service.start()
    service.await_job("web")
    service.ctl("run-now", "web", "--no-wait")
    wait_for(lambda: len(service.processes()) == 4, what="daemon, keeper, worker and a child")
    return int(service.show("MainPID"))


# Life and death ---------------------------------------------------------------------------------


def test_started_means_that_jobs_are_loaded_and_the_socket_listens(service: Service) -> None:
    names = {f"job-{number:03}" for number in range(300)}
    for name in names:
        service.write_job(f"{name}.py", 'SCHEDULE = "manual"\n')
    service.start()
    assert service.jobs() == names
    loaded = [written_at(each) for each in service.entries("STORELET_JOB=job-299")]
    (started,) = service.entries(f"MESSAGE_ID={UNIT_STARTED}", "UNIT=storeletd.service")
    assert loaded
    assert max(loaded) < written_at(started)


UNIT_STARTED = "39f53479d3a045ac8e11786248231fbf"  # SD_MESSAGE_UNIT_STARTED, sd-messages.h


def written_at(entry: dict[str, str]) -> int:
    """Return when who wrote an entry did so: journald may be late. In us since the epoch."""
    return int(entry["_SOURCE_REALTIME_TIMESTAMP"])


def test_status_names_the_next_run(service: Service) -> None:
    service.write_job("web.py", 'SCHEDULE = "00:30"\nTIMEZONE = "UTC"\n')
    service.write_job("other.py", 'SCHEDULE = "@yearly"\n')
    service.start()
    status = wait_for(lambda: service.show("StatusText"), what="a status")
    assert re.fullmatch(r"next run: web \w{3} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+", status)
    assert status in service.machine.run("systemctl", "status", "storeletd").stdout


def test_reload_loads_what_nobody_noticed(service: Service) -> None:
    text = 'SCHEDULE = "manual"\nTIMEOUT = "{}h"\n'
    # What becomes of a link's target is no event of the job directory.
    target = service.machine.path("/etc/storelet/web.py")
    target.write_text(text.format(1))
    service.machine.shell("ln -s /etc/storelet/web.py /etc/storelet.d/")
    service.start()
    for hours in range(2, 10):
        target.write_text(text.format(hours))
        if not is_loaded_soon(service, hours, seconds=2):  # a look was due when the daemon began
            break
    service.machine.run("systemctl", "reload", "storeletd")
    assert is_loaded_soon(service, hours, seconds=10)
    assert service.show("ActiveState") == "active"


def is_loaded_soon(service: Service, hours: int, *, seconds: float) -> bool:
    """Wait until job web is loaded with that timeout, but no longer."""
    until = time.monotonic() + seconds

    def look() -> bool:
        timeout = service.ask("/jobs/web")["settings"]["timeout"]["value"]
        return timeout == f"{hours}h" or time.monotonic() > until

    wait_for(look, seconds=2 * seconds)
    return time.monotonic() <= until


def test_a_daemon_whose_event_loop_hangs_is_killed_and_started_again(service: Service) -> None:
    service.change("WatchdogSec=3s", "RestartSec=100ms", *run_by(HANGING))
    service.start()
    pid = service.show("MainPID")
    alive_until = time.monotonic() + 5
    wait_for(lambda: time.monotonic() > alive_until, what="more than the watchdog's time")
    assert service.show("NRestarts") == "0"
    service.machine.shell(f"kill -USR1 {pid}")
    wait_for(lambda: service.show("NRestarts") == "1", seconds=30, what="a restart")
    wait_for(lambda: service.show("ActiveState") == "active", seconds=30, what="its start")
    assert "Watchdog timeout" in service.journal("--unit=storeletd")
    assert service.show("MainPID") != pid
    assert service.ask("/health")["status"] == "ok"


# Its main thread, and no other, sleeps when told to.
HANGING = """
import signal, sys, time, storeletd.__main__
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1000))
sys.exit(storeletd.__main__.main())
"""


def run_by(program: str) -> tuple[str, str]:
    """Return the lines that have a Python program run the daemon."""
    one_line = "; ".join(program.strip().splitlines())
    return "ExecStart=", f'ExecStart=/opt/storelet/bin/python -c "{one_line}"'


def test_a_killed_daemon_is_started_again_and_its_run_is_lost(service: Service) -> None:
    service.change("RestartSec=100ms")
    pid = start_sleeper(service)
    service.machine.shell(f"kill -KILL {pid}")
    wait_for(lambda: service.show("NRestarts") == "1", seconds=30, what="a restart")
    wait_for(lambda: service.show("ActiveState") == "active", seconds=30, what="its start")
    assert service.processes() == {int(service.show("MainPID"))}
    assert [run["outcome"] for run in service.runs("web")] == ["lost"]
    (entry,) = service.entries(f"MESSAGE_ID={MESSAGE_IDS['run-lost']}")
    assert (entry["STORELET_JOB"], entry["STORELET_OUTCOME"]) == ("web", "lost")


def test_a_stop_ends_runs_with_their_outcome_and_leaves_no_process(service: Service) -> None:
    start_sleeper(service)
    service.machine.run("systemctl", "stop", "storeletd")
    assert service.show("Result") == "success"  # no timeout, nothing left to kill
    assert service.processes() == set()
    assert "Killing process" not in service.journal("--unit=storeletd")
    service.start()
    assert [run["outcome"] for run in service.runs("web")] == ["cancelled"]


def test_a_stop_during_an_upload_aborts_it(
    service: Service, seaweedfs: Bucket, machine: Machine
) -> None:
    machine.shell("mkdir -p /srv/large; head -c 20M /dev/urandom >/srv/large/random")
    with Proxy(seaweedfs.endpoint) as proxy:
        proxy.script = lambda request: "hang" if request.query.get("partNumber") == ["2"] else None
        give_credentials(service, seaweedfs)
        write_s3_job(service, seaweedfs, "/srv/large", proxy.endpoint)
        service.start()
        service.ctl("run-now", "web", "--no-wait")
        wait_for(lambda: proxy.actions.count("UploadPart") > 1, seconds=30, what="a second part")
        assert seaweedfs.client.list_multipart_uploads(Bucket=seaweedfs.name).get("Uploads")
        machine.run("systemctl", "stop", "storeletd")
    assert service.show("Result") == "success"
    assert not seaweedfs.client.list_multipart_uploads(Bucket=seaweedfs.name).get("Uploads")
    assert seaweedfs.keys() == []


def test_a_daemon_that_cannot_work_is_not_started_again_and_again(service: Service) -> None:
    service.change("RestartSec=100ms", "ExecStartPre=/bin/mkdir /var/lib/storelet/lock")
    done = service.machine.run("systemctl", "start", "storeletd", check=False)
    assert done.returncode != 0
    assert service.show("ExecMainStatus") == "78"
    assert service.show("ActiveState") == "failed"


def test_after_a_reboot_it_is_up_and_catches_up(service: Service, machine: Machine) -> None:
    # A daemon whose clock is two hours slow stands for one that saw the job two hours ago.
    service.change(*run_by(SLOW))
    service.write_job("web.py", 'SCHEDULE = "every 1h"\nraise SystemExit(75)\n')
    service.start()
    service.await_job("web")
    machine.shell("rm -r /etc/systemd/system/storeletd.service.d")
    machine.reboot()
    assert service.show("ActiveState") == "active"
    (run,) = wait_for(lambda: service.runs("web"), what="a run")
    assert (run["cause"], run["due"]["count"]) == ("catch-up", 2)


SLOW = """
import datetime, freezegun, sys, storeletd.__main__
slow = datetime.datetime.now() - datetime.timedelta(hours=2)
freezegun.freeze_time(slow, tick=True, real_asyncio=True).start()
sys.exit(storeletd.__main__.main())
"""


# A night's backup -------------------------------------------------------------------------------


def test_a_dropped_job_backs_up_to_s3_with_keys_that_are_credentials(
    service: Service, seaweedfs: Bucket, machine: Machine
) -> None:
    give_credentials(service, seaweedfs)
    service.start()
    write_s3_job(service, seaweedfs, make_source(machine))  # only root may read it
    run = service.run("web")
    assert run["outcome"] == "success", run["message"]
    (key,) = seaweedfs.keys()
    with zipfile.ZipFile(io.BytesIO(seaweedfs.read(key))) as archive:
        assert archive.read("index.html") == b"hello\n"
    assert SECRET_KEY not in service.journal(output="json")
    assert SECRET_KEY not in service.ctl("show", "web", "--json").stdout


def test_a_jobs_lines_in_the_journal_have_fields_and_storelets_format(service: Service) -> None:
    service.write_job("web.py", 'SCHEDULE = "manual"\nprint("hello")\nraise SystemExit(75)\n')
    service.start()
    number = str(service.run("web")["id"])
    entries = service.entries("STORELET_JOB=web")
    begun, hello, ended = (each for each in entries if "STORELET_RUN" in each)
    assert {each["STORELET_RUN"] for each in (begun, hello, ended)} == {number}
    assert {each["SYSLOG_IDENTIFIER"] for each in entries} == {"storeletd"}
    assert {each["_SYSTEMD_UNIT"] for each in entries} == {"storeletd.service"}
    assert begun["MESSAGE_ID"] == MESSAGE_IDS["run-begun"]
    assert ended["MESSAGE_ID"] == MESSAGE_IDS["run-finished"]
    assert ended["STORELET_OUTCOME"] == "skipped"
    line = service.journal("STORELET_JOB=web", "--grep=hello")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[INFO\]: hello\n", line)


def test_no_line_is_dropped_however_many_there_are(service: Service, machine: Machine) -> None:
    machine.shell("mkdir /run/systemd/journald.conf.d")
    strict = "[Journal]\nRateLimitBurst=10\n"  # a service's own limit takes precedence
    machine.path("/run/systemd/journald.conf.d/strict.conf").write_text(strict)
    machine.run("systemctl", "restart", "systemd-journald")
    service.write_job("web.py", 'SCHEDULE = "manual"\nfor n in range(2000): print("line", n)\n')
    service.start()
    service.run("web")
    machine.shell("rm -r /run/systemd/journald.conf.d; systemctl restart systemd-journald")
    assert service.journal("STORELET_JOB=web").count("line ") == 2000
    assert service.entries(f"MESSAGE_ID={MESSAGE_IDS['run-finished']}")


# Who may do what --------------------------------------------------------------------------------


def test_root_and_members_of_the_group_may_use_storeletctl_and_nobody_else(
    service: Service, machine: Machine
) -> None:
    machine.shell("useradd --groups storelet member; useradd stranger")
    service.start()
    for user in ("root", "member"):
        assert json.loads(service.ctl("list", "--json", user=user).stdout)["jobs"] == []
    done = service.ctl("list", user="stranger", check=False)
    assert done.returncode == 77
    assert "usermod -aG storelet" in done.stderr


DAC_READ_SEARCH = 1 << 2  # <linux/capability.h>


def test_the_daemon_may_read_everything_and_nothing_more(service: Service) -> None:
    service.start()
    status = service.machine.path(f"/proc/{service.show('MainPID')}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(fields["Uid"].split()[1]) != 0
    assert {int(fields[f"Cap{kind}"], 16) for kind in ("Bnd", "Eff", "Prm")} == {DAC_READ_SEARCH}
    assert fields["NoNewPrivs"] == "1"


def test_a_command_has_no_capability_unless_it_is_privileged(
    service: Service, machine: Machine
) -> None:
    service.use("storeletd-directory.conf")
    make_destination(machine, owner="storelet")
    show = "run: [grep, CapEff, /proc/self/status]"
    write_directory_job(
        service,
        f"""\
        - {{new_dir: one, {show}}}
        - {{new_dir: two, {show}, privileged: true}}
        """,
    )
    service.start()
    run = service.run("web")
    assert run["outcome"] == "success", run["message"]
    shown = re.findall(r"CapEff:\s+(\w+)", service.ctl("logs", "web").stdout)
    assert [int(each, 16) for each in shown] == [0, DAC_READ_SEARCH]


def test_no_process_may_leave_a_core_dump(service: Service) -> None:
    service.start()
    limits = service.machine.path(f"/proc/{service.show('MainPID')}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)  # soft and hard


def test_a_directory_is_written_to_with_the_drop_in_for_it(
    service: Service, machine: Machine
) -> None:
    make_destination(machine, owner="storelet")
    write_directory_job(service, f"- directory: {make_source(machine)}")
    service.start()
    run = service.run("web")
    assert "Read-only file system" in run["message"]
    assert f"ReadWritePaths={DIRECTORY}" in run["hint"]
    service.use("storeletd-directory.conf")
    machine.run("systemctl", "restart", "storeletd")
    assert service.run("web")["outcome"] == "success"
    assert len(list(machine.path(DIRECTORY).iterdir())) == 1


DIRECTORY = "/mnt/nas/backups"  # of the drop-in as it is shipped


def make_destination(machine: Machine, *, owner: str) -> None:
    """Make the directory of the drop-in, empty and a user's."""
    machine.shell(f"rm -rf {DIRECTORY}; install -d -o {owner} -m 0700 {DIRECTORY}")


def write_directory_job(service: Service, include: str, more: str = "") -> None:
    """Drop job web, which saves to the directory of the drop-in."""
    lines = textwrap.dedent(include)
    save = f"save: [{{directory: {DIRECTORY}}}]"
    service.write_job("web.yaml", f"schedule: manual\n{more}\n{save}\ninclude:\n{lines}")


@pytest.mark.parametrize("more", ["", "user: nobody"], ids=["its commands", "a job"])
def test_with_the_drop_in_for_root_other_users_may_be_named(
    service: Service, machine: Machine, more: str
) -> None:
    service.use("storeletd-as-root.conf")
    service.use("storeletd-directory.conf")
    make_destination(machine, owner="nobody" if more else "root")
    user = "" if more else ", user: nobody"
    write_directory_job(service, f"- {{new_dir: made, run: id -un >who && cat who{user}}}", more)
    service.start()
    run = service.run("web")
    assert run["outcome"] == "success", run["message"]
    assert "nobody" in service.ctl("logs", "web").stdout.split()
    assert len(list(machine.path(DIRECTORY).iterdir())) == 1


def test_with_the_drop_in_for_root_a_job_may_be_other_users_and_look_after_them(
    service: Service, machine: Machine
) -> None:
    machine.shell("id -u friend || useradd --groups storelet friend")
    service.use("storeletd-as-root.conf")
    service.write_job("web.py", BECOMING)
    service.start()
    run = service.run("web")
    assert run["outcome"] == "skipped", run
    assert service.ctl("logs", "web").stdout.split() == ["nobody", "nobody"]
    service.ctl("list", user="friend")


BECOMING = """\
SCHEDULE = "manual"
import os, pwd, subprocess, tempfile
become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
directory = tempfile.mkdtemp()
os.chown(directory, pwd.getpwnam("nobody").pw_uid, -1)
for command in (["runuser", "-u", "nobody", "--"], become):
    subprocess.run([*command, "id", "-un"], check=True)
    script = "umask 077; mkdir made; touch made/file"
    subprocess.run([*command, "sh", "-c", script], cwd=directory, check=True)
    made = directory + "/made"
    os.chmod(made + "/file", 0o444)
    open(made + "/file", "a").close()
    os.unlink(made + "/file")
    os.rmdir(made)
sleeping = ["sh", "-c", "echo; exec sleep 1000"]
with subprocess.Popen([*become, *sleeping], stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    process.kill()
raise SystemExit(75)
"""
