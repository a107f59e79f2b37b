"""The kinds of values that settings take: what is checked of them beyond their type.

Each is a type for a field of `settings`, with its validation, how it is written as JSON and its
JSON Schema. Every validator raises ValueError with what was expected, and never shows a value
that may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    SerializationInfo,
    StrictStr,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from storeletd.schedule import Schedule, local_timezone, parse_duration, parse_schedule
from storeletd.secrets import REFERENCE_FORMS, REFERENCES, SecretReference, parse_reference

__all__ = [
    "TEXT_EXPECTED",
    "AbsolutePath",
    "AnyText",
    "BucketName",
    "Command",
    "CustomerKey",
    "DatabaseNames",
    "Duration",
    "EnvironmentValue",
    "FileName",
    "LogFiles",
    "MemberName",
    "Part",
    "Pattern",
    "Reread",
    "ScheduleTexts",
    "Secret",
    "Text",
    "Timezone",
    "Url",
    "UserName",
    "VariableName",
    "Verify",
    "WebSecret",
    "read_part",
]

TEXT_EXPECTED = "text_expected"  # type of pydantic's error where YAML may have read a number

_DURATION_PATTERN = "^ *([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)? *$"
_CUSTOMER_KEY = "^[A-Za-z0-9+/]{43}=$"  # base64 of 32 bytes


def _check_text(value: str) -> str:
    try:
        is_encodable = "\0" not in value and value.encode() is not None
    except UnicodeEncodeError:  # half of a surrogate pair, which Python's literals may hold
        is_encodable = False
    if not is_encodable:
        raise ValueError("expected text that UTF-8 can hold, without NUL")
    return value


def _check_not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("expected text that is not empty")
    return value


def _check_absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("expected an absolute path, such as /srv/www")
    return value


def _check_member_name(value: str) -> str:
    """Hold `value` to what the library takes as a name inside an archive."""
    if value.startswith("/") or not {"", ".", ".."}.isdisjoint(value.rstrip("/").split("/")):
        raise ValueError("expected a name inside the archive: a relative path without `..`")
    return value


def _check_file_name(value: str) -> str:
    if "/" in value:
        raise ValueError("expected the name of a file, without a path")
    return value


def _check_pattern(value: str) -> str:
    from pathspec import GitIgnoreSpec  # most jobs need not load it

    try:
        GitIgnoreSpec.from_lines([value])
    except (ValueError, re.error) as error:
        raise ValueError("expected a pattern as in a .gitignore") from error
    return value


def _check_bucket(value: str) -> str:
    if "/" in value and not value.startswith("arn:"):
        raise ValueError("expected the name of a bucket alone; a path goes into `prefix`")
    return value


def _check_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected a URL, such as https://s3.example.org")
    if re.match("https?://[^/?#]*@", value):  # it would end in logs, in the history, in `show`
        raise ValueError(
            "expected a URL without a user and password: use access_key and secret_key"
        )
    return value


def _check_user(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][^\s:/]*", value):
        raise ValueError("expected the name of a user")
    return value


def _check_variable(value: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("expected the name of a variable: letters, digits and `_`")
    return value


def _read_schedule(value: object) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if not isinstance(value, str | list | tuple):
        raise PydanticCustomError(TEXT_EXPECTED, "expected text or a list of texts")
    return parse_schedule(value)


def _read_timezone(value: object) -> ZoneInfo:
    """Read a time zone's name; None is the machine's. Raises ScheduleError where TZ is wrong."""
    if value is None:
        return local_timezone()
    if isinstance(value, ZoneInfo):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError(TEXT_EXPECTED, "expected text")
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # unknown; outside the database; a directory
        near = difflib.get_close_matches(value, available_timezones(), n=1)
        asked = f", did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected a time zone, such as Europe/Berlin{asked}") from None


def _read_duration(value: object) -> timedelta:
    duration = value if isinstance(value, timedelta) else parse_duration(value)  # type: ignore[arg-type]
    if not duration:
        raise ValueError("expected a duration longer than nothing")
    return duration


def _check_a_day(value: timedelta) -> timedelta:
    if value < timedelta(days=1):
        raise ValueError("expected a duration of at least 1d")
    return value


def _write_duration(value: timedelta) -> str:
    parts, seconds = [], int(value.total_seconds())
    for unit, length in {"d": 86_400, "h": 3_600, "m": 60, "s": 1}.items():
        count, seconds = divmod(seconds, length)
        parts.append(f"{count}{unit}" if count else "")
    return "".join(parts)


def _read_secret(value: object) -> SecretStr | SecretReference:
    if isinstance(value, SecretStr | SecretReference):
        return value
    if isinstance(value, str) and value:
        return SecretStr(_check_text(value))
    if isinstance(value, Mapping):
        return parse_reference(value)
    raise ValueError(f"expected text, or {REFERENCE_FORMS}")


def _read_environment_value(value: object) -> str | SecretReference:
    if isinstance(value, SecretReference):
        return value
    if isinstance(value, str):
        return _check_text(value)
    if isinstance(value, Mapping):
        return parse_reference(value)
    raise PydanticCustomError(TEXT_EXPECTED, f"expected text, or {REFERENCE_FORMS}")


def _write_reference(value: str | SecretReference) -> object:
    return {value.kind: value.name} if isinstance(value, SecretReference) else value


def _check_customer_key(value: SecretStr | SecretReference) -> SecretStr | SecretReference:
    if isinstance(value, SecretStr) and not re.fullmatch(_CUSTOMER_KEY, value.get_secret_value()):
        raise ValueError("expected base64 of 32 bytes, as by: openssl rand -base64 32")
    return value


def _check_web_secret(value: SecretStr | SecretReference) -> SecretStr | SecretReference:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else "https://"
    if not plain.startswith(("http://", "https://")):
        raise ValueError("expected a URL that begins with http:// or https://")
    return value


def _write_secret(value: SecretStr | SecretReference, info: SerializationInfo) -> object:
    """Write a plain secret only where the context says `reveal`."""
    if isinstance(value, SecretReference):
        return _write_reference(value)
    reveal = isinstance(info.context, Mapping) and info.context.get("reveal")
    return value.get_secret_value() if reveal else "***"


def read_part(text: object) -> float:
    """Return a part such as 5% as a number above 0 and up to 1. Raises ValueError."""
    with suppress(ValueError):
        if isinstance(text, str) and text.endswith("%"):
            part = float(text.removesuffix("%")) / 100
            if 0 < part <= 1:
                return part
    raise ValueError("expected a part such as 5%")


def _write_part(part: float) -> str:
    return f"{part * 100:g}%"


def _find_databases_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "all" if value == "all" else "text"
    return "list" if isinstance(value, list | tuple) else None


def _read_log_files(value: object) -> object:
    if not isinstance(value, bool) and value != "auto":  # else 1 would pass for true
        raise ValueError("expected auto, true or false")
    return value


def _read_verify(value: object) -> bool | str:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.startswith("/"):
        return _check_text(value)
    raise ValueError("expected true, false, or the absolute path of a file of certificates")


def _text_schema(**more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "minLength": 1, **more})


def _duration_schema(*, minimum: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 2, "pattern": _DURATION_PATTERN},
                {"type": "integer", "minimum": minimum, "description": "Seconds."},
            ]
        }
    )


AnyText = Annotated[StrictStr, AfterValidator(_check_text)]
Text = Annotated[AnyText, AfterValidator(_check_not_empty), _text_schema()]
AbsolutePath = Annotated[Text, AfterValidator(_check_absolute), _text_schema(pattern="^/")]
MemberName = Annotated[Text, AfterValidator(_check_member_name), _text_schema(pattern="^[^/]")]
FileName = Annotated[Text, AfterValidator(_check_file_name), _text_schema(pattern="^[^/]+$")]
Pattern = Annotated[Text, AfterValidator(_check_pattern)]
BucketName = Annotated[Text, AfterValidator(_check_bucket)]
Url = Annotated[
    Text, AfterValidator(_check_url), _text_schema(pattern="^https?://[^/?#@]*([/?#]|$)")
]
UserName = Annotated[
    Text, AfterValidator(_check_user), _text_schema(pattern=r"^[A-Za-z_][^\s:/]*$")
]
VariableName = Annotated[Text, AfterValidator(_check_variable)]
ScheduleTexts = Annotated[
    Schedule,
    PlainValidator(_read_schedule),
    PlainSerializer(lambda schedule: list(schedule.texts)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            ]
        }
    ),
]
Timezone = Annotated[ZoneInfo, PlainValidator(_read_timezone), PlainSerializer(str), _text_schema()]
Duration = Annotated[
    timedelta,
    PlainValidator(_read_duration),
    PlainSerializer(_write_duration),
    _duration_schema(minimum=1),
]
Reread = Annotated[Duration, AfterValidator(_check_a_day), _duration_schema(minimum=86_400)]
Part = Annotated[
    float,
    PlainValidator(read_part),
    PlainSerializer(_write_part),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"}),
]
_REFERENCE_SCHEMA = {
    "type": "object",
    "properties": {
        kind: {"type": "string", "minLength": 1, "description": meaning}
        for kind, meaning in REFERENCES.items()
    },
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}
Secret = Annotated[
    SecretStr | SecretReference,
    PlainValidator(_read_secret),
    PlainSerializer(_write_secret),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _REFERENCE_SCHEMA]}),
]
CustomerKey = Annotated[
    Secret,
    AfterValidator(_check_customer_key),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _CUSTOMER_KEY}, _REFERENCE_SCHEMA]}),
]
WebSecret = Annotated[
    Secret,
    AfterValidator(_check_web_secret),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^https?://"}, _REFERENCE_SCHEMA]}),
]
EnvironmentValue = Annotated[
    str | SecretReference,
    PlainValidator(_read_environment_value),
    PlainSerializer(_write_reference),
    WithJsonSchema({"anyOf": [{"type": "string"}, _REFERENCE_SCHEMA]}),
]


def _find_command_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "shell"
    return "list" if isinstance(value, list | tuple) else None


Command = Annotated[
    Annotated[Text, Tag("shell")] | Annotated[tuple[Text, ...], Field(min_length=1), Tag("list")],
    Discriminator(
        _find_command_kind,
        custom_error_type=TEXT_EXPECTED,
        custom_error_message="expected a command: a list of texts, or one text for a shell",
    ),
]
DatabaseNames = Annotated[
    Annotated[Literal["all"], Tag("all")]
    | Annotated[Text, Tag("text")]
    | Annotated[tuple[Text, ...], Field(min_length=1), Tag("list")],
    Discriminator(
        _find_databases_kind,
        custom_error_type=TEXT_EXPECTED,
        custom_error_message="expected the name of a database, a list of them, or all",
    ),
]
LogFiles = Annotated[Literal["auto", True, False], BeforeValidator(_read_log_files)]
Verify = Annotated[
    bool | str,
    PlainValidator(_read_verify),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^/"}]}),
]
