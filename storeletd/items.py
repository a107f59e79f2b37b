"""The items of a job's `include` and `save`: each kind a model, known by one key that it has.

They are settings and declared like all of them; see `settings`.
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

from storeletd.values import (
    AbsolutePath,
    AnyText,
    BucketName,
    Command,
    CustomerKey,
    Duration,
    FileName,
    MemberName,
    Pattern,
    Secret,
    Text,
    Url,
    UserName,
    Verify,
)

__all__ = [
    "INCLUDE_KINDS",
    "SAVE_KINDS",
    "Include",
    "IncludeDirectory",
    "IncludeFile",
    "IncludeNewDir",
    "Lock",
    "Save",
    "SaveDirectory",
    "SaveS3",
    "SettingsModel",
    "Upload",
    "setting",
]


def setting(description: str, example: object, **more: Any) -> Any:
    """Declare a setting that may be left out."""
    more.setdefault("default", None)
    return Field(description=description, examples=[example], **more)


class SettingsModel(BaseModel):
    """Unknown keys are errors; nothing changes later; no error shows a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# include: what goes into the archive


class IncludeDirectory(SettingsModel):
    """Include what is in a directory."""

    directory: AbsolutePath = Field(description="Directory to include.", examples=["/srv/www"])
    name: MemberName | None = setting(
        "Directory of the archive to put it under; else it goes into the root.", "www"
    )
    preserve_paths: StrictBool = setting(
        "Keep the whole path, without the leading slash; beneath `name` where both are given.",
        True,
        default=False,
    )
    exclude: tuple[Pattern, ...] = setting(
        "Patterns as in a .gitignore in the directory: what they match stays out.",
        ["*.tmp", "cache/"],
        default=(),
    )
    exclude_caches: StrictBool = setting(
        "Leave out the content of directories marked by a valid CACHEDIR.TAG.", True, default=False
    )
    exclude_if_present: tuple[FileName, ...] = setting(
        "Leave out the content of directories that hold a file of one of these names.",
        [".nobackup"],
        default=(),
    )
    one_file_system: StrictBool = setting(
        "Leave out the content of other file systems mounted beneath.", True, default=False
    )


class IncludeFile(SettingsModel):
    """Include a single file."""

    file: AbsolutePath = Field(description="File to include.", examples=["/etc/fstab"])
    name: MemberName | None = setting(
        "Name in the archive, with a path if need be; else the file's own name.", "etc/fstab"
    )


class IncludeNewDir(SettingsModel):
    """Include what a command puts into a new, temporary directory."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "properties": {"privileged": {"const": True}},
                "required": ["privileged", "user"],
            }
        }
    )

    new_dir: MemberName = Field(
        description="Directory of the archive for what the command makes.", examples=["database"]
    )
    run: Command = Field(
        description="Command that fills the directory `{dir}`: a list of its arguments, or one text"
        " for a shell. It gets the job's environment, but no AWS_* variables.",
        examples=[["pg_dump", "--format=custom", "--file={dir}/site.dump", "site"]],
        repr=False,  # its words may be secrets
    )
    privileged: StrictBool = setting(
        "Keep the daemon's capability to read every file; left out, the command has only its"
        " user's rights. Not together with user.",
        False,
        default=False,
    )
    user: UserName | None = setting(
        "User to run the command as, whose the new directory is then; for that the daemon must be"
        " root, and such a user has no capabilities.",
        "postgres",
    )

    @field_validator("user")
    @classmethod
    def _check_user(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("privileged"):
            raise ValueError("expected either user or privileged")
        return value


# save: where the archive goes


class Upload(SettingsModel):
    """Options of S3's requests PutObject and CreateMultipartUpload, named as there."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {
                "SSECustomerAlgorithm": ["SSECustomerKey"],
                "SSECustomerKey": ["SSECustomerAlgorithm"],
            }
        }
    )

    StorageClass: Text | None = setting("Storage class of the archives.", "STANDARD_IA")
    ServerSideEncryption: Text | None = setting("How S3 encrypts them at rest.", "aws:kms")
    SSEKMSKeyId: Text | None = setting("KMS key to encrypt with.", "alias/backup")
    SSEKMSEncryptionContext: Text | None = setting(
        "Encryption context for KMS, as base64 of JSON.", "eyJhIjoiYiJ9"
    )
    SSECustomerAlgorithm: Literal["AES256"] | None = setting(
        "Encrypt with a key of your own, together with SSECustomerKey.", "AES256"
    )
    SSECustomerKey: CustomerKey | None = setting(
        "That key, base64 of 32 bytes, which the store does not keep: who has lost it has lost the"
        " archives.",
        {"credential": "s3-customer-key"},
        validate_default=True,
    )
    BucketKeyEnabled: StrictBool | None = setting("Use an S3 Bucket Key with KMS.", True)
    ACL: Text | None = setting("Canned access rights.", "bucket-owner-full-control")
    GrantFullControl: Text | None = setting("Who may do everything with them.", 'id="1234"')
    GrantRead: Text | None = setting("Who may read them.", 'id="1234"')
    GrantReadACP: Text | None = setting("Who may read their access rights.", 'id="1234"')
    GrantWriteACP: Text | None = setting("Who may change their access rights.", 'id="1234"')
    ExpectedBucketOwner: Text | None = setting(
        "Account the bucket must belong to, else the upload fails.", "123456789012"
    )
    RequestPayer: Literal["requester"] | None = setting("Who pays for requests.", "requester")
    Tagging: Text | None = setting("Tags, as the query of a URL.", "class=backup&host=web")
    Metadata: dict[Text, AnyText] | None = setting(
        "Metadata beside Storelet's own.", {"owner": "web team"}
    )

    @field_validator("SSECustomerKey")
    @classmethod
    def _check_customer_key(cls, value: Secret | None, info: ValidationInfo) -> Secret | None:
        algorithm = info.data.get("SSECustomerAlgorithm", value)  # one that is wrong is one error
        if (value is None) != (algorithm is None):
            raise ValueError("expected SSECustomerAlgorithm and SSECustomerKey together")
        return value


class Lock(SettingsModel):
    """For how long nobody may delete an archive."""

    mode: Literal["governance", "compliance"] = Field(
        description="governance can be ended by a key with s3:BypassGovernanceRetention, compliance"
        " by nobody at all.",
        examples=["governance"],
    )
    retain: Duration = Field(
        description="For how long, counted from when the archive is begun.", examples=["30d"]
    )


class SaveS3(SettingsModel):
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
    prefix: AnyText = setting(
        "What the archive's key begins with, before its name.", "web/", default=""
    )
    access_key: Secret | None = setting(
        "Access key. Left out together with secret_key, keys come from boto3's own chain:"
        " environment, profile, instance role.",
        {"credential": "s3-access-key"},
    )
    secret_key: Secret | None = setting(
        "Secret key that belongs to access_key.",
        {"credential": "s3-secret-key"},
        validate_default=True,
    )
    aws_session_token: Secret | None = setting(
        "Session token, where access_key and secret_key are temporary.", {"env": "AWS_TOKEN"}
    )
    upload: Upload | None = setting("Options of the upload.", {"StorageClass": "STANDARD_IA"})
    lock: Lock | None = setting(
        "For how long nobody may delete an archive. The bucket must have been made with object"
        " lock.",
        {"mode": "governance", "retain": "30d"},
    )
    region_name: Text | None = setting("Region of the bucket.", "eu-central-1")
    endpoint_url: Url | None = setting(
        "Where the store is, if it is not Amazon's.", "https://s3.example.org"
    )
    use_ssl: StrictBool | None = setting("Speak TLS; endpoint_url says it by itself.", True)
    verify: Verify | None = setting(
        "Check the store's certificate; or a file of the certificates to trust.",
        "/etc/ssl/certs/store.pem",
    )
    api_version: Text | None = setting("Version of S3's API.", "2006-03-01")

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


class SaveDirectory(SettingsModel):
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
