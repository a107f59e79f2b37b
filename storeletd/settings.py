"""The settings of a job: each declared once, with type, default, description and example.

Validation, the JSON Schema, the constants of Python modules, the hints of errors and the
README's list all come from these declarations. What kinds of values there are is `values`' matter,
what can stand in the lists `include` and `save` is `items`'; how a setting is written down (YAML,
Python) and where it stands in a file is `jobfile`'s.

Descriptions follow systemd's manner: what it means, how it acts together with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, StrictBool, StrictInt, Tag
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from storeletd.includes import Include, check_places
from storeletd.items import SettingsModel, setting
from storeletd.saves import Save
from storeletd.values import (
    Command,
    Duration,
    EnvironmentValue,
    LogFiles,
    Part,
    Reread,
    ScheduleTexts,
    Secret,
    Timezone,
    UserName,
    VariableName,
    WebSecret,
)

__all__ = [
    "MODULE_CONSTANTS",
    "SAID_BY_CODE",
    "SETTINGS_IN",
    "CatchUp",
    "ChangeDetection",
    "Encryption",
    "Keep",
    "Language",
    "Notify",
    "Settings",
    "Verification",
    "YamlSettings",
    "json_schema",
]


News = Literal["failed", "partial", "missed", "timeout", "overdue", "held", "recovered"]
_Count = Annotated[StrictInt, Field(ge=0)]


class ChangeDetection(SettingsModel):
    """By what a file shows, beside its size and mtime, that it has not changed."""

    ctime: StrictBool = setting(
        "By its ctime; false for file systems that give every file a new one, or none at all.",
        False,
        default=True,
    )
    inode: StrictBool = setting(
        "By its inode number; false where these change from one mount to the next, as on some"
        " network file systems.",
        False,
        default=True,
    )


class Encryption(SettingsModel):
    """With what archives are encrypted."""

    password: Secret = Field(
        description="Password that opens them: at most 99 bytes, best of ASCII characters. Who has"
        " lost it has lost them: keep it in another place, too.",
        examples=[{"credential": "backup-password"}],
    )


class Keep(SettingsModel):
    """Which archives are kept when others are deleted; what any of these keeps is kept."""

    last: Annotated[StrictInt, Field(ge=1)] = setting(
        "The newest archives; whatever else is said, no fewer are kept.", 7, default=3
    )
    hourly: _Count = setting("The newest of each of the last so many hours.", 24, default=0)
    daily: _Count = setting("The newest of each of the last so many days.", 7, default=0)
    weekly: _Count = setting("The newest of each of the last so many weeks.", 4, default=0)
    monthly: _Count = setting("The newest of each of the last so many months.", 12, default=0)
    yearly: _Count = setting("The newest of each of the last so many years.", 5, default=0)
    within: Duration | None = setting("All of so long before the newest one.", "14d")


class Verification(SettingsModel):
    """How archives are read back."""

    every: Duration = Field(
        description="How long after the last verification the next one is due.", examples=["1w"]
    )
    sample: Part = setting(
        "Part of the files that each one checks; one part after the other, so that all come in"
        " turn.",
        "10%",
        default="100%",
        validate_default=True,
    )
    compare_source: StrictBool = setting(
        "Compare these files with their sources, too, where those show no change by size, mtime"
        " and ctime: then it is rot, on one side or the other.",
        True,
        default=False,
    )


class Notify(SettingsModel):
    """Who is told what becomes of the job."""

    urls: Annotated[tuple[Secret, ...], Field(min_length=1)] = Field(
        description="Where to: URLs of Apprise, such as mailto://, ntfy:// or slack://.",
        examples=[[{"credential": "ntfy-url"}]],
    )
    on: Annotated[tuple[News, ...], Field(min_length=1)] = setting(
        "Of what; once each, and again only when it has been otherwise meanwhile.",
        ["failed", "overdue", "recovered"],
        default=get_args(News),
    )


class CatchUp(SettingsModel):
    """How far a run may be caught up."""

    max_late: Duration = Field(
        description="What was due longer ago is recorded as missed instead.", examples=["12h"]
    )


def _find_catch_up_kind(value: object) -> str | None:
    if isinstance(value, bool):
        return "bool"
    return "CatchUp" if isinstance(value, Mapping | CatchUp) else None


_CatchUp = Annotated[
    Annotated[StrictBool, Tag("bool")] | Annotated[CatchUp, Tag("CatchUp")],
    Discriminator(
        _find_catch_up_kind,
        custom_error_type="catch_up_expected",
        custom_error_message="expected true, false or {max_late: DURATION}",
    ),
]
_Includes = Annotated[
    tuple[Include, ...],
    Field(
        description="What goes into the archive: a list of directories, files and new directories.",
        examples=[[{"directory": "/srv/www", "name": "www"}, {"file": "/etc/fstab"}]],
        min_length=1,
    ),
    AfterValidator(check_places),
]
_Saves = Annotated[
    tuple[Save, ...],
    Field(
        description="Where the archive goes: a list of S3 buckets and directories.",
        examples=[[{"s3": "my-bucket", "prefix": "web/"}, {"directory": "/mnt/nas/backups"}]],
        min_length=1,
    ),
]


class Settings(SettingsModel):
    """The settings of any job."""

    schedule: ScheduleTexts = Field(
        description="When the job is due: five fields as in crontab(5), @daily and the like,"
        ' "Mon..Fri 02:30", "every 6h", a list of these, or manual: only when told to.',
        examples=["30 2 * * *"],
    )
    timezone: Timezone = setting(
        "Time zone of the schedule; left out, the machine's.",
        "Europe/Berlin",
        validate_default=True,
    )
    include: _Includes = ()
    save: _Saves = ()
    compression: Literal["fast", "small", "none"] = setting(
        "How hard to deflate: small is three times slower than fast and a few per cent smaller,"
        " none stores everything as it is.",
        "small",
        default="fast",
    )
    encryption: Encryption | None = setting(
        "Encrypt what files hold, so that it can be read with the password alone; names, sizes and"
        " times stay readable. Another password makes a full archive.",
        {"password": {"credential": "backup-password"}},
    )
    reuse: StrictBool = setting(
        "Take what has not changed from the archive before, inside the destination, instead of"
        " reading and sending it again.",
        False,
        default=True,
    )
    reread: Reread = setting(
        "After how long a file is read again although it has not changed, so that rot in one"
        " archive does not live for ever; a few of them every night. At least 1d.",
        "90d",
        default="30d",
        validate_default=True,
    )
    change_detection: ChangeDetection = setting(
        "By what a file shows that it has not changed; its size and mtime always count.",
        {"ctime": False, "inode": False},
        default=ChangeDetection(),
    )
    keep: Keep | None = setting(
        "Delete, after each run that was a success, the archives of this job and this host that"
        " none of these rules keeps. Left out, all are kept.",
        {"last": 3, "daily": 7, "weekly": 4, "monthly": 12},
    )
    verify: Verification | None = setting(
        "Read the newest archive back, everywhere the job saves to, and check it. One that is not"
        " right is a failed run; it is marked as bad, and the next backup reads everything.",
        {"every": "1w", "sample": "10%"},
    )
    randomized_delay: Duration | None = setting(
        "Start every run up to that much later than it is due, by an amount that is always the"
        " same for this job on this host, so that a hundred hosts do not start at once.",
        "10m",
    )
    catch_up: _CatchUp = setting(
        "Run once if due times passed while the daemon or the machine was down, as soon as the"
        " destinations answer; else they are only recorded as missed. So is, with max_late, what"
        " was due longer ago.",
        {"max_late": "12h"},
        default=True,
    )
    overlap: Literal["skip", "queue"] = setting(
        "When the job is due while it runs: skip records that due time as skipped, queue runs the"
        " job once more afterwards.",
        "queue",
        default="skip",
    )
    timeout: Duration | None = setting(
        "How long a run may take; then it is ended with all that it started, and its outcome is"
        " timeout. Left out, it may take for ever.",
        "4h",
    )
    idle_timeout: Duration | None = setting(
        "The same where no byte was read or sent for so long; the time of a command under `run`"
        " does not count.",
        "10m",
    )
    retries: Annotated[StrictInt, Field(ge=0, le=10)] = setting(
        "How often to repeat a run that failed for what may pass by itself, such as a network that"
        " is down; never one that was started by hand.",
        0,
        default=3,
    )
    retry_wait: Duration = setting(
        "How long to wait before the first of these; each further one waits twice as long.",
        "5m",
        default="1m",
        validate_default=True,
    )
    max_age: Duration | None = setting(
        "The job is overdue, which is said once and loudly, when no archive was saved for so"
        " long. Left out, it never is.",
        "26h",
    )
    notify: Notify | None = setting(
        "Tell somebody when a run fails, is partial, missed or timed out, when the job is overdue"
        " or its archives are held, and when that is over.",
        {"urls": [{"credential": "ntfy-url"}]},
    )
    before: Command | None = setting(
        "Command before anything is read: a list of its arguments, or one text for a shell. Status"
        " 75 skips the run, any other but 0 fails it.",
        "mountpoint -q /mnt/usb || mount /mnt/usb",
        repr=False,  # its words may be secrets
    )
    after: Command | None = setting(
        "Command after each run that began, whatever its outcome. Where it fails, that is said in"
        " the log and the run's notes.",
        ["umount", "/mnt/usb"],
        repr=False,
    )
    on_failure: Command | None = setting(
        "The same where the run failed, is partial or timed out; it comes after `after`.",
        'echo "$STORELET_MESSAGE" | mail -s "$STORELET_JOB: $STORELET_OUTCOME" root',
        repr=False,
    )
    healthchecks: WebSecret | None = setting(
        "Ping this URL, as that of a check of healthchecks.io: when a backup begins, when it was a"
        " success, and with the last lines of its log when it went wrong.",
        {"credential": "healthchecks-url"},
    )
    log_files: LogFiles = setting(
        '"Added file …" in the journal: auto logs the first 1,000 of a run and then the number of'
        " the rest, true all, false none.",
        False,
        default="auto",
    )
    user: UserName | None = setting(
        "User to run the job as, with all that it starts; for that the daemon must be root. Left"
        " out, the daemon's user.",
        "postgres",
    )
    environment: dict[VariableName, EnvironmentValue] = setting(
        "Variables for the job and its commands, as text or references to secrets; they win over"
        " the daemon's own.",
        {"PGHOST": "/run/postgresql"},
        default={},
        repr=False,  # values may be secrets that nobody marked as such
        json_schema_extra={"propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}},
    )

    @property
    def max_late(self) -> timedelta | None:
        """How late a run may be caught up; None: ever so late."""
        return self.catch_up.max_late if isinstance(self.catch_up, CatchUp) else None


class YamlSettings(Settings):
    """A Storelet job in YAML."""

    model_config = ConfigDict(title="Storelet job file")

    include: _Includes
    save: _Saves


Language = Literal["yaml", "python"]
SETTINGS_IN: Mapping[Language, type[Settings]] = {"yaml": YamlSettings, "python": Settings}
SAID_BY_CODE = frozenset(  # of a Python module
    {
        "change_detection",
        "compression",
        "encryption",
        "include",
        "keep",
        "reread",
        "reuse",
        "save",
        "verify",
    }
)
MODULE_CONSTANTS: Mapping[str, str] = {
    name.upper(): name for name in Settings.model_fields if name not in SAID_BY_CODE
}


class _Generator(GenerateJsonSchema):
    """Leaves out what only Python means: null for "left out", and titles made from names."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        if schema.get("default", ()) in (None, ()):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of YAML job files, for editors and other tools."""
    schema = YamlSettings.model_json_schema(schema_generator=_Generator)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
