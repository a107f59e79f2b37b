"""The tables of the history, and how each version of them came from the one before."""

from __future__ import annotations

__all__ = ["MIGRATIONS"]

# The statements at index n bring a database of user_version n to n + 1.
MIGRATIONS = (
    (
        """
        CREATE TABLE run (
            id            INTEGER PRIMARY KEY AUTOINCREMENT,
            job           TEXT NOT NULL,
            kind          TEXT NOT NULL,
            cause         TEXT NOT NULL,
            state         TEXT NOT NULL,      -- queued, running, finished
            outcome       TEXT,               -- NULL until finished
            exit_code     INTEGER,            -- likewise
            due_first     INTEGER,            -- NULL where nobody's due time
            due_last      INTEGER,
            due_count     INTEGER NOT NULL DEFAULT 0,
            queued_at     INTEGER NOT NULL,
            begun_at      INTEGER,
            finished_at   INTEGER,
            message       TEXT,
            hint          TEXT,
            files         INTEGER NOT NULL DEFAULT 0,
            bytes_read    INTEGER NOT NULL DEFAULT 0,
            skipped       INTEGER NOT NULL DEFAULT 0,
            archives      TEXT NOT NULL DEFAULT '[]',  -- JSON: [[url, bytes], …]
            collided_with INTEGER,
            output        TEXT NOT NULL DEFAULT '[]'   -- its last lines, JSON
        ) STRICT
        """,
        "CREATE INDEX run_of_job ON run (job, id)",
        "CREATE INDEX run_success ON run (job, id) WHERE outcome = 'success'",
        "CREATE INDEX run_archive ON run (job, id) WHERE archives <> '[]'",
        "CREATE INDEX run_open ON run (id) WHERE state <> 'finished'",
        """
        CREATE TABLE skipped_entry (
            run    INTEGER NOT NULL REFERENCES run (id),
            path   TEXT NOT NULL,
            reason TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX skipped_entry_of_run ON skipped_entry (run)",
        """
        CREATE TABLE job (
            name          TEXT PRIMARY KEY,
            schedule      TEXT NOT NULL,      -- as it was when decided_until was written
            decided_until INTEGER NOT NULL    -- each due time up to then is in a run's row
        ) STRICT
        """,
    ),
    (
        "ALTER TABLE run ADD COLUMN reused INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE run ADD COLUMN notes TEXT NOT NULL DEFAULT '[]'",  # JSON
        # archives: [[url, bytes, bytes reused, bytes sent, requests], …]. Until now all was
        # sent, and nobody counted requests.
        """
        UPDATE run SET archives = (
            SELECT json_group_array(json_array(
                json_extract(value, '$[0]'), json_extract(value, '$[1]'),
                0, json_extract(value, '$[1]'), 0
            )) FROM json_each(run.archives)
        ) WHERE archives <> '[]'
        """,
        """
        CREATE TABLE upload (                 -- begun, and neither completed nor aborted
            run       INTEGER NOT NULL REFERENCES run (id),
            bucket    TEXT NOT NULL,
            key       TEXT NOT NULL,
            upload_id TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX upload_of_run ON upload (run)",
    ),
    (
        "ALTER TABLE run ADD COLUMN repeats INTEGER",  # the first run of all for the same
        "ALTER TABLE run ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE run ADD COLUMN retry_at INTEGER",  # another is owed from then on
        "CREATE INDEX run_good ON run (job, id) WHERE outcome IN ('success', 'partial')",
        "CREATE INDEX run_attempt ON run (job, id) WHERE state = 'finished'"
        " AND (begun_at NOTNULL OR outcome NOT IN ('skipped', 'missed'))",
        "ALTER TABLE job ADD COLUMN known_since INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE job ADD COLUMN paused_until INTEGER",
        "ALTER TABLE job ADD COLUMN overdue_since INTEGER",
        "UPDATE job SET known_since = decided_until",
    ),
    (
        "CREATE INDEX run_verify ON run (job, id) WHERE kind = 'verify'",
        """
        CREATE TABLE proof (                  -- of a part of an archive, on a circle of 2^32 points
            job       TEXT NOT NULL,
            place     TEXT NOT NULL,
            archive   TEXT NOT NULL,
            first     INTEGER NOT NULL,
            size      INTEGER NOT NULL,
            proved_at INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX proof_of_job ON proof (job)",
        "ALTER TABLE job ADD COLUMN held_since INTEGER",  # nothing is pruned from then on
        "ALTER TABLE job ADD COLUMN held_why TEXT",
        "ALTER TABLE job ADD COLUMN told TEXT NOT NULL DEFAULT '{}'",  # JSON: topic to word
    ),
)
