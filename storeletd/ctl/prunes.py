"""The verb that deletes what need not be kept: prune. It runs as the caller, with no daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from storeletd.ctl import console
from storeletd.ctl.console import CommandError
from storeletd.ctl.formats import describe_bytes, describe_count, describe_time, escape
from storeletd.ctl.invocation import json_option
from storeletd.ctl.names import JOB
from storeletd.ctl.reach import Reach, reaching, translating
from storeletd.ctl.tables import Column, print_table

if TYPE_CHECKING:
    import storelet

__all__ = ["prune"]

_COLUMNS = (
    Column(title="BEGUN"),
    Column(title="SIZE", right=True),
    Column(title="ACTION"),
    Column(title="ARCHIVE"),
    Column(title="WHY"),
)

_KEEP = "keep: {last: 3, daily: 7, weekly: 4, monthly: 12}"


@click.command()
@click.argument("job", type=JOB, metavar="JOB")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be deleted, and why.")
@json_option
@reaching
def prune(reach: Reach, job: str, dry_run: bool, as_json: bool) -> int:
    """Delete the archives of a job that its `keep` lets go.

    It says why each stays or goes. The daemon does so after each run that was a success. Only
    archives that this host made for this job are ever deleted.
    """
    from storeletd.destinations import prune_archives

    settings = reach.job(job)
    if settings.settings.keep is None:
        is_module = settings.language == "python"
        hint = "storelet.prune in its code" if is_module else f"say in {settings.path}: {_KEEP}"
        raise CommandError(f"job {job} keeps all its archives", hint=hint, exit_code=78)
    if not dry_run:
        _check_hold(reach, job)
    with translating():
        pruned, reasons = prune_archives(settings, dry_run=dry_run)
    if as_json:
        places = [{"place": place, "archives": list(map(_describe, e))} for place, e in pruned]
        console.print_json({"dry_run": dry_run, "places": places, "errors": reasons})
    else:
        for place, archives in pruned:
            _print_archives(place, archives, dry_run=dry_run)
        for reason in reasons:
            console.print_remark(f"Not pruned: {reason}")
    left = [e for _, each in pruned for e in each if not (dry_run or e.is_kept or e.is_deleted)]
    return 1 if reasons else 77 if left else 0


def _check_hold(reach: Reach, job: str) -> None:
    """Raise CommandError where the daemon holds the archives of a job."""
    try:
        held = reach.invocation.client().job(job)["prune_held"]
    except CommandError:  # it is not there, or does not know the job
        return
    if held is not None:
        raise CommandError(
            f"archives of {job} are held: {held['why']}",
            hint=f"storeletctl resume-prune {job}, if that is as it should be",
        )


def _print_archives(
    place: str, archives: Sequence[storelet.PrunedArchive], *, dry_run: bool
) -> None:
    print_table(
        _COLUMNS,
        (
            (
                "-" if each.started is None else describe_time(each.started),
                describe_bytes(each.size),
                _say(each, dry_run=dry_run),
                each.name,
                ", ".join(each.reasons),
            )
            for each in archives
        ),
    )
    gone = [each for each in archives if each.is_deleted or (dry_run and not each.is_kept)]
    size = describe_bytes(sum(each.size for each in gone))
    verb = "Would delete" if dry_run else "Deleted"
    said = f"{verb} {len(gone):,} of {describe_count(len(archives), 'archive')}, {size}"
    console.print_line(f"{said}, in {escape(place)}")


def _say(archive: storelet.PrunedArchive, *, dry_run: bool) -> str:
    if archive.is_kept:
        return "keep"
    if dry_run:
        return "delete"
    return "deleted" if archive.is_deleted else "not deleted"


def _describe(archive: storelet.PrunedArchive) -> dict[str, Any]:
    started = archive.started
    return {
        "url": archive.url,
        "started": None if started is None else started.isoformat(timespec="seconds"),
        "bytes": archive.size,
        "kept": archive.is_kept,
        "deleted": archive.is_deleted,
        "reasons": list(archive.reasons),
    }
