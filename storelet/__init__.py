"""Backups as plain zip files in Amazon S3, from a script of a few lines."""

from storelet.abandoned import AbandonedUpload, abandoned
from storelet.backup import NewDirectory, ZipBackup
from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from storelet.errors import (
    ArchiveExistsError,
    CredentialsError,
    DestinationError,
    DestinationMissingError,
    PermissionDeniedError,
    SourceError,
    SourceMissingError,
    StoreletError,
    UsageError,
    join_errors,
)
from storelet.logs import LOGGING_DEFAULTS, setup_logging
from storelet.observer import (
    Added,
    Event,
    Figures,
    Filling,
    Moved,
    NotReused,
    Observer,
    Passed,
    Reused,
    Saved,
    Skipped,
    Truncated,
    UploadEnded,
    UploadOpened,
    observe,
)
from storelet.source import never_include

__all__ = [
    "LOGGING_DEFAULTS",
    "S3",
    "AbandonedUpload",
    "Added",
    "ArchiveExistsError",
    "CredentialsError",
    "DestinationError",
    "DestinationMissingError",
    "Directory",
    "Event",
    "Figures",
    "Filling",
    "Moved",
    "NewDirectory",
    "NotReused",
    "Observer",
    "Passed",
    "PermissionDeniedError",
    "Reused",
    "Saved",
    "Skipped",
    "SourceError",
    "SourceMissingError",
    "StoreletError",
    "Truncated",
    "UploadEnded",
    "UploadOpened",
    "UsageError",
    "ZipBackup",
    "abandoned",
    "join_errors",
    "never_include",
    "observe",
    "setup_logging",
]
