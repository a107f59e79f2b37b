"""`storeletctl`, the command line of the daemon.

    commands    the verbs by name, the global options, errors and exit codes
    jobs        list, status, show, reload
    runs        run-now, cancel, history, logs
    oneshot     run
    times       next, calendar
    archives    archives, files, find, dump, diff
    restores    restore, verify;   databases   restore --database
    prunes      prune
    jobfiles    validate, schema;   excerpts   a line with a caret under a place in it
    firstjob    init;   questions   what it asks;   draft   the job so far;   deposit   its files
    doctor      doctor;   findings    what both find, as lines
    reach       what ARCHIVE means: archives, reached as the caller;   moments     JOB@2026-11-20
    keys        what opens archives: passwords, credentials of the service
    client      HTTP on the control socket;   replies     the JSON that comes over it
    progress    a run while it is followed;   forecast    how long it will take
    summaries   a run in words
    meter       a restore while it goes on
    console     what is written, and where;   tables, formats   rows, times, sizes as text

Only click is imported at the start: what else a verb needs, it imports itself, so that each
verb starts within a tenth of a second.
"""

from __future__ import annotations

from storeletd.ctl.commands import main

__all__ = ["main"]
