"""The verbs about job files as such: validate, schema. They need no daemon."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from storeletd.ctl import console
from storeletd.ctl.arguments import jobs_option
from storeletd.ctl.console import colour, print_all, print_line
from storeletd.ctl.excerpts import draw_excerpt
from storeletd.ctl.formats import escape
from storeletd.ctl.invocation import json_option

if TYPE_CHECKING:
    from storeletd.jobs import Job, JobProblem
    from storeletd.masking import MaskedFile

__all__ = ["schema", "validate"]

_INVALID = 78
_PIPE_WIDTH = 160  # of what is shown of a line where there is no terminal


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@jobs_option
@json_option
def validate(files: Sequence[Path], directory: Path, as_json: bool) -> int:
    """Check job files, given ones or a whole directory. Needs no daemon.

    Prints every problem with its line, in which *** stands for what may be a secret; exit code 78
    says that there are any. A directory is checked as the daemon would: owners, modes and names
    that two files share, too.
    """
    jobs, problems = _read_files(files) if files else _read_directory(directory)
    if as_json:
        console.print_json(
            {
                "jobs": [{"name": job.name, "path": job.path} for job in jobs],
                "problems": [asdict(problem) for problem in problems],
            }
        )
    else:
        _print_findings(jobs, problems)
    return _INVALID if problems else 0


def _read_files(files: Sequence[Path]) -> tuple[Sequence[Job], Sequence[JobProblem]]:
    from storeletd.jobfile import read_job
    from storeletd.jobs import JobFileError

    jobs: list[Job] = []
    problems: list[JobProblem] = []
    for file in files:
        try:
            jobs.append(read_job(file))
        except JobFileError as error:
            problems += error.problems
    return jobs, problems


def _read_directory(directory: Path) -> tuple[Sequence[Job], Sequence[JobProblem]]:
    from storeletd.jobdir import JobDirectory

    found = JobDirectory(directory)
    found.scan()
    return list(found.jobs.values()), found.problems


def _print_findings(jobs: Sequence[Job], problems: Sequence[JobProblem]) -> None:
    from storeletd.masking import mask_file

    for job in jobs:
        print_line(f"{escape(job.path)}: ok")
    files = {each.file: mask_file(Path(each.file)) for each in problems if each.line}
    for problem in problems:
        print_line(colour(_describe(problem), "broken"))
        print_all(_quote(problem, files.get(problem.file)))
        if problem.hint:
            print_line(f"  Try: {escape(problem.hint)}")
    if not jobs and not problems:
        console.print_remark("no job files")


def _describe(problem: JobProblem) -> str:
    place = (problem.file, problem.line, problem.column)
    at = ":".join(str(each) for each in place if each is not None)
    return escape(": ".join(each for each in (at, problem.key, problem.message) if each))


def _quote(problem: JobProblem, file: MaskedFile | None) -> Sequence[str]:
    """Return the line where the problem is, and where in it."""
    if file is None or problem.line is None or problem.column is None:
        return ()
    line, at = file.show(problem.line, problem.column)
    width = shutil.get_terminal_size().columns if console.is_terminal() else _PIPE_WIDTH
    shown, caret = draw_excerpt(problem.line, line, at, width=width)
    return shown, colour(caret, "broken")


@click.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of YAML job files. Needs no daemon."""
    from storeletd.jobs import json_schema

    console.print_json(json_schema())
