"""The items of a job's `save`: where the archive goes, each kind a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, Tag, ValidationInfo, field_validator

from storeletd.items import SettingsModel, one_of, setting
from storeletd.values import (
    AbsolutePath,
    AnyText,
    BucketName,
    CustomerKey,
    Duration,
    Secret,
    Text,
    Url,
    Verify,
)

__all__ = ["SAVE_KINDS", "Lock", "Save", "SaveDirectory", "SaveS3", "Upload"]


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
        "Where the store is, if it is not Amazon's.",
        "https://s3.example.org",
        repr=False,  # one that is wrong may have a password in it
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


SAVE_KINDS: Mapping[str, type[BaseModel]] = {"s3": SaveS3, "directory": SaveDirectory}
Save = Annotated[
    Annotated[SaveS3, Tag("SaveS3")] | Annotated[SaveDirectory, Tag("SaveDirectory")],
    one_of(SAVE_KINDS),
]
