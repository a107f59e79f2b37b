"""`storeletctl`: its verbs, the options of all, and how errors end.

Each verb is a click command of another module and returns its exit code, or None for 0. Here is
the one edge where errors become text and an exit code.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from storeletd.ctl import (
    archives,
    completion,
    console,
    doctor,
    firstjob,
    jobfiles,
    jobs,
    oneshot,
    pauses,
    prunes,
    restores,
    runs,
    simulate,
    times,
)
from storeletd.ctl.console import CommandError
from storeletd.ctl.invocation import Invocation, default_socket

__all__ = ["main", "storeletctl"]

_USAGE = 2
_INTERRUPTED = 130

_EPILOG = """\b
With --json there is one JSON document on standard output. An error is one
on standard error instead, with "error", "hint" and "exit_code".

\b
Exit codes:
    0  done                        12  wrong key
    1  failed, lost, missed        69  the daemon is not reachable
    2  wrong command line          75  skipped
    3  partial; status: not well   77  not permitted
    4  no such job, run, file      78  a job file is broken
   10  destination missing        124  timed out
   11  already running            130  interrupted
                                  143  cancelled
"""


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # takes 20 ms

        console.print_line(f"storeletctl {version('storelet')}")
        context.exit()


@click.group(
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.option(
    "--socket",
    "socket_path",
    envvar="STORELET_SOCKET",
    show_envvar=True,
    default=default_socket,
    show_default="$RUNTIME_DIRECTORY/storeletd.sock or /run/storelet/storeletd.sock",
    metavar="PATH",
    help="The daemon's control socket.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def storeletctl(context: click.Context, socket_path: str) -> None:
    """See and control the backup jobs of storeletd."""
    context.obj = Invocation(socket_path=socket_path)
    if context.invoked_subcommand is None:
        console.print_line(context.get_help())
        context.exit(_USAGE)  # a script that forgets the verb must not take it for done


for _command in (
    jobs.list_jobs,
    jobs.status,
    jobs.show,
    runs.run_now,
    oneshot.run,
    runs.cancel,
    pauses.pause,
    pauses.resume,
    jobs.reload,
    runs.history,
    runs.logs,
    archives.list_archives,
    archives.list_files,
    archives.find,
    archives.dump,
    archives.diff,
    restores.restore,
    restores.verify,
    prunes.prune,
    pauses.resume_prune,
    times.show_next,
    times.calendar,
    simulate.simulate,
    firstjob.init,
    doctor.doctor,
    jobfiles.validate,
    jobfiles.schema,
    completion.completion,
):
    storeletctl.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run storeletctl and exit. `arguments` are those of the command line by default."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments  # it counts also where the rest cannot be understood
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, _end_in_order)
    try:
        if sys.stdout is None:  # `>&-`; what a verb wrote would be lost in silence
            raise CommandError(
                "standard output is closed", hint=">/dev/null, if nobody is to read it"
            )
        code = storeletctl.main([*arguments], prog_name="storeletctl", standalone_mode=False)
    except click.Abort:
        code = _fail(CommandError("interrupted", exit_code=_INTERRUPTED), as_json)
    except (CommandError, click.ClickException) as error:
        code = _fail(error, as_json)
    except OSError as error:  # such as standard output on a full disk
        what = "standard output" if error.filename is None else error.filename
        code = _fail(CommandError(f"{what}: {error.strerror or error}"), as_json)
        console.turn_off(1)
    sys.exit(code)


def _end_in_order(number: int, _frame: object) -> NoReturn:
    """End by an exception: what is half done is undone, and a terminal's cursor shown again."""
    raise SystemExit(128 + number)


def _fail(error: CommandError | click.ClickException, as_json: bool) -> int:
    console.print_error(error, as_json=as_json)
    return error.exit_code
