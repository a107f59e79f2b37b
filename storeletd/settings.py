"""The settings of a job: each declared once, with type, default, description and example.

Validation, the JSON Schema, the constants of Python modules, the hints of errors and the
README's list all come from these declarations. What kinds of values there are is `values`' matter;
how a setting is written down (YAML, Python) and where it stands in a file is `jobfile`'s.

Descriptions follow systemd's manner: what it means, how it acts together with others.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from storeletd.values import (
    AbsolutePath,
    AnyText,
    BucketName,
    Command,
    Duration,
    EnvironmentValue,
    FileName,
    LogFiles,
    MemberName,
    Pattern,
    ScheduleTexts,
    Secret,
    Text,
    Timezone,
    Url,
    VariableName,
    Verify,
)

__all__ = [
    "INCLUDE_KINDS",
    "MODULE_CONSTANTS",
    "SAID_BY_CODE",
    "SAVE_KINDS",
    "SETTINGS_IN",
    "IncludeDirectory",
    "IncludeFile",
    "IncludeNewDir",
    "Language",
    "SaveDirectory",
    "SaveS3",
    "Settings",
    "Upload",
    "YamlSettings",
    "json_schema",
]


def _setting(description: str, example: object, **more: Any) -> Any:
    """Declare a setting that may be left out."""
    more.setdefault("default", None)
    return Field(description=description, examples=[example], **more)


class _Model(BaseModel):
    """Unknown keys are errors; nothing changes later; no error shows a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# include: what goes into the archive


class IncludeDirectory(_Model):
    """Include what is in a directory."""

    directory: AbsolutePath = Field(description="Directory to include.", examples=["/srv/www"])
    name: MemberName | None = _setting(
        "Directory of the archive to put it under; else it goes into the root.", "www"
    )
    preserve_paths: StrictBool = _setting(
        "Keep the whole path, without the leading slash; beneath `name` where both are given.",
        True,
        default=False,
    )
    exclude: tuple[Pattern, ...] = _setting(
        "Patterns as in a .gitignore in the directory: what they match stays out.",
        ["*.tmp", "cache/"],
        default=(),
    )
    exclude_caches: StrictBool = _setting(
        "Leave out the content of directories marked by a valid CACHEDIR.TAG.", True, default=False
    )
    exclude_if_present: tuple[FileName, ...] = _setting(
        "Leave out the content of directories that hold a file of one of these names.",
        [".nobackup"],
        default=(),
    )
    one_file_system: StrictBool = _setting(
        "Leave out the content of other file systems mounted beneath.", True, default=False
    )


class IncludeFile(_Model):
    """Include a single file."""

    file: AbsolutePath = Field(description="File to include.", examples=["/etc/fstab"])
    name: MemberName | None = _setting(
        "Name in the archive, with a path if need be; else the file's own name.", "etc/fstab"
    )


class IncludeNewDir(_Model):
    """Include what a command puts into a new, temporary directory."""

    new_dir: MemberName = Field(
        description="Directory of the archive for what the command makes.", examples=["database"]
    )
    run: Command = Field(
        description="Command that fills the directory `{dir}`: a list of its arguments, or one text"
        " for a shell. It gets the job's environment, but no AWS_* variables.",
        examples=[["pg_dump", "--format=custom", "--file={dir}/site.dump", "site"]],
        repr=False,  # its words may be secrets
    )


# save: where the archive goes


class Upload(_Model):
    """Options of S3's requests PutObject and CreateMultipartUpload, named as there."""

    StorageClass: Text | None = _setting("Storage class of the archives.", "STANDARD_IA")
    ServerSideEncryption: Text | None = _setting("How S3 encrypts them at rest.", "aws:kms")
    SSEKMSKeyId: Text | None = _setting("KMS key to encrypt with.", "alias/backup")
    SSEKMSEncryptionContext: Text | None = _setting(
        "Encryption context for KMS, as base64 of JSON.", "eyJhIjoiYiJ9"
    )
    BucketKeyEnabled: StrictBool | None = _setting("Use an S3 Bucket Key with KMS.", True)
    ACL: Text | None = _setting("Canned access rights.", "bucket-owner-full-control")
    GrantFullControl: Text | None = _setting("Who may do everything with them.", 'id="1234"')
    GrantRead: Text | None = _setting("Who may read them.", 'id="1234"')
    GrantReadACP: Text | None = _setting("Who may read their access rights.", 'id="1234"')
    GrantWriteACP: Text | None = _setting("Who may change their access rights.", 'id="1234"')
    ExpectedBucketOwner: Text | None = _setting(
        "Account the bucket must belong to, else the upload fails.", "123456789012"
    )
    RequestPayer: Literal["requester"] | None = _setting("Who pays for requests.", "requester")
    Tagging: Text | None = _setting("Tags, as the query of a URL.", "class=backup&host=web")
    Metadata: dict[Text, AnyText] | None = _setting(
        "Metadata beside Storelet's own.", {"owner": "web team"}
    )


class SaveS3(_Model):
    """Save the archive to an S3 bucket."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {
                "access_key": ["secret_key"],
                "secret_key": ["access_key"],
                "aws_session_token": ["access_key", "secret_key"],
            }
        }
    )

    s3: BucketName = Field(description="Bucket to save to.", examples=["my-bucket"])
    prefix: AnyText = _setting(
        "What the archive's key begins with, before its name.", "web/", default=""
    )
    access_key: Secret | None = _setting(
        "Access key. Left out together with secret_key, keys come from boto3's own chain:"
        " environment, profile, instance role.",
        {"credential": "s3-access-key"},
    )
    secret_key: Secret | None = _setting(
        "Secret key that belongs to access_key.",
        {"credential": "s3-secret-key"},
        validate_default=True,
    )
    aws_session_token: Secret | None = _setting(
        "Session token, where access_key and secret_key are temporary.", {"env": "AWS_TOKEN"}
    )
    upload: Upload | None = _setting("Options of the upload.", {"StorageClass": "STANDARD_IA"})
    region_name: Text | None = _setting("Region of the bucket.", "eu-central-1")
    endpoint_url: Url | None = _setting(
        "Where the store is, if it is not Amazon's.", "https://s3.example.org"
    )
    use_ssl: StrictBool | None = _setting("Speak TLS; endpoint_url says it by itself.", True)
    verify: Verify | None = _setting(
        "Check the store's certificate; or a file of the certificates to trust.",
        "/etc/ssl/certs/store.pem",
    )
    api_version: Text | None = _setting("Version of S3's API.", "2006-03-01")

    @field_validator("secret_key")
    @classmethod
    def _check_pair(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        # A key that is wrong in itself is not among the data: that is one error, not two.
        if "access_key" in info.data and (value is None) != (info.data["access_key"] is None):
            raise ValueError("expected access_key and secret_key together, or neither")
        return value

    @field_validator("aws_session_token")
    @classmethod
    def _check_token(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        if value is not None and info.data.get("access_key", value) is None:
            raise ValueError("expected access_key and secret_key with it")
        return value


class SaveDirectory(_Model):
    """Save the archive to a directory."""

    directory: AbsolutePath = Field(
        description="Directory to save to; it must exist.", examples=["/mnt/nas/backups"]
    )


# An item's kind is the one key of these that it has.
INCLUDE_KINDS: Mapping[str, type[BaseModel]] = {
    "directory": IncludeDirectory,
    "file": IncludeFile,
    "new_dir": IncludeNewDir,
}
SAVE_KINDS: Mapping[str, type[BaseModel]] = {"s3": SaveS3, "directory": SaveDirectory}


def _find_kind(kinds: Mapping[str, type[BaseModel]]) -> Callable[[Any], str | None]:
    """Return a function from an item to the name of its model, if need be the nearest one.

    Of several kinds it takes the first, so that all else that is wrong is found as well.
    """

    def find(item: object) -> str | None:
        if isinstance(item, BaseModel):
            return type(item).__name__
        if not isinstance(item, Mapping):
            return None
        near = [difflib.get_close_matches(str(key), kinds, n=1) for key in item]
        found = [kind for kind in kinds if kind in item] + [
            name for names in near for name in names
        ]
        return kinds[found[0]].__name__ if found else None

    return find


def _one_of(kinds: Mapping[str, type[BaseModel]]) -> Discriminator:
    return Discriminator(
        _find_kind(kinds),
        custom_error_type="kind_expected",
        custom_error_message=f"expected a mapping with one of {', '.join(kinds)}",
    )


Include = Annotated[
    Annotated[IncludeDirectory, Tag("IncludeDirectory")]
    | Annotated[IncludeFile, Tag("IncludeFile")]
    | Annotated[IncludeNewDir, Tag("IncludeNewDir")],
    _one_of(INCLUDE_KINDS),
]
Save = Annotated[
    Annotated[SaveS3, Tag("SaveS3")] | Annotated[SaveDirectory, Tag("SaveDirectory")],
    _one_of(SAVE_KINDS),
]
_Includes = Annotated[
    tuple[Include, ...],
    Field(
        description="What goes into the archive: a list of directories, files and new directories.",
        examples=[[{"directory": "/srv/www", "name": "www"}, {"file": "/etc/fstab"}]],
        min_length=1,
    ),
]
_Saves = Annotated[
    tuple[Save, ...],
    Field(
        description="Where the archive goes: a list of S3 buckets and directories.",
        examples=[[{"s3": "my-bucket", "prefix": "web/"}, {"directory": "/mnt/nas/backups"}]],
        min_length=1,
    ),
]


class Settings(_Model):
    """The settings of any job."""

    schedule: ScheduleTexts = Field(
        description="When the job is due: five fields as in crontab(5), @daily and the like,"
        ' "Mon..Fri 02:30", "every 6h", a list of these, or manual: only when told to.',
        examples=["30 2 * * *"],
    )
    timezone: Timezone = _setting(
        "Time zone of the schedule; left out, the machine's.",
        "Europe/Berlin",
        validate_default=True,
    )
    include: _Includes = ()
    save: _Saves = ()
    compression: Literal["fast", "small", "none"] = _setting(
        "How hard to deflate: small is 2.5 times slower than fast and a few per cent smaller, none"
        " stores everything as it is.",
        "small",
        default="fast",
    )
    timeout: Duration | None = _setting(
        "How long a run may take; then it is ended with all that it started, and its outcome is"
        " timeout. Left out, it may take for ever.",
        "4h",
    )
    catch_up: StrictBool = _setting(
        "Run once if due times passed while the daemon or the machine was down; else they are"
        " only recorded as missed.",
        False,
        default=True,
    )
    overlap: Literal["skip", "queue"] = _setting(
        "When the job is due while it runs: skip records that due time as skipped, queue runs the"
        " job once more afterwards.",
        "queue",
        default="skip",
    )
    log_files: LogFiles = _setting(
        '"Added file …" in the journal: auto logs the first 1,000 of a run and then the number of'
        " the rest, true all, false none.",
        False,
        default="auto",
    )
    environment: dict[VariableName, EnvironmentValue] = _setting(
        "Variables for the job and its commands, as text or references to secrets; they win over"
        " the daemon's own.",
        {"PGHOST": "/run/postgresql"},
        default={},
        repr=False,  # values may be secrets that nobody marked as such
        json_schema_extra={"propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}},
    )


class YamlSettings(Settings):
    """A Storelet job in YAML."""

    model_config = ConfigDict(title="Storelet job file")

    include: _Includes
    save: _Saves


Language = Literal["yaml", "python"]
SETTINGS_IN: Mapping[Language, type[Settings]] = {"yaml": YamlSettings, "python": Settings}
SAID_BY_CODE = frozenset({"compression", "include", "save"})  # of a Python module
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
