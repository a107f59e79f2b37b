"""The job model: settings, their schema, jobs on their way to a worker and to `show`."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3.session
import botocore.session
import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError

from storeletd.includes import INCLUDE_KINDS, IncludeDirectory, IncludeNewDir
from storeletd.jobfile import read_job
from storeletd.jobs import Job, JobFileError, JobProblem, Settings, json_schema
from storeletd.saves import SAVE_KINDS, Lock, SaveS3, Upload
from storeletd.schedule import local_timezone
from storeletd.secrets import SecretReference
from storeletd.settings import (
    MODULE_CONSTANTS,
    SAID_BY_CODE,
    ChangeDetection,
    Encryption,
    YamlSettings,
)

CUSTOMER_KEY = "cGxhaW4tc2VjcmV0cGxhaW4tc2VjcmV0cGxhaW4tc2U="
EXAMPLE = """\
# /etc/storelet.d/website.yaml
schedule: "30 2 * * *"
timezone: Europe/Berlin
include:
  - directory: /srv/www
    name: www
    preserve_paths: false
    exclude: ["*.tmp", "cache/"]
    exclude_caches: true
    exclude_if_present: [.nobackup]
    one_file_system: true
  - file: /etc/fstab
  - new_dir: database
    run: ["pg_dump", "--format=custom", "--file={dir}/site.dump", "site"]
  - new_dir: facts
    run: uname -a > {dir}/uname
save:
  - s3: my-bucket
    prefix: web/
    endpoint_url: https://s3.example.org
    upload:
      StorageClass: STANDARD_IA
      SSECustomerAlgorithm: AES256
      SSECustomerKey: cGxhaW4tc2VjcmV0cGxhaW4tc2VjcmV0cGxhaW4tc2U=
    access_key: {credential: s3-key}
    secret_key: plain-secret
  - directory: /mnt/nas/backups
encryption: {password: plain-secret}
reuse: true
reread: 90d
change_detection: {inode: false}
timeout: 4h
catch_up: true
overlap: skip
log_files: auto
environment: {PGHOST: /run/postgresql, PGPASSWORD: plain-secret, TOKEN: {env: TOKEN_OF_US}}
"""


@pytest.fixture
def values() -> dict[str, Any]:
    loaded = yaml.safe_load(EXAMPLE)
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def job(values: dict[str, Any]) -> Job:
    return make_job(YamlSettings.model_validate(values))


def make_job(settings: Settings, source: str = EXAMPLE) -> Job:
    return Job(
        name="website",
        path="/etc/storelet.d/website.yaml",
        language="yaml",
        settings=settings,
        source=source,
        lines={"schedule": 2, "timezone": 3, "include": 4, "save": 17},
    )


def test_settings_are_values_of_their_kind(job: Job) -> None:
    settings = job.settings
    assert settings.schedule.texts == ("30 2 * * *",)
    assert settings.timezone.key == "Europe/Berlin"
    assert settings.reread == timedelta(days=90)
    assert settings.change_detection == ChangeDetection(ctime=True, inode=False)
    assert settings.encryption == Encryption(password=SecretStr("plain-secret"))
    assert settings.timeout == timedelta(hours=4)
    directory, _file, list_command, shell_command = settings.include
    assert isinstance(directory, IncludeDirectory)
    assert directory.exclude == ("*.tmp", "cache/")
    assert isinstance(list_command, IncludeNewDir)
    assert list_command.run[0] == "pg_dump"
    assert isinstance(shell_command, IncludeNewDir)
    assert shell_command.run == "uname -a > {dir}/uname"
    bucket = settings.save[0]
    assert isinstance(bucket, SaveS3)
    assert bucket.access_key == SecretReference(kind="credential", name="s3-key")
    assert bucket.secret_key == SecretStr("plain-secret")
    assert bucket.upload == Upload(
        StorageClass="STANDARD_IA",
        SSECustomerAlgorithm="AES256",
        SSECustomerKey=SecretStr(CUSTOMER_KEY),
    )


def test_what_is_left_out_has_its_default() -> None:
    settings = Settings.model_validate({"schedule": "manual"})
    assert settings.schedule.is_manual
    assert settings.timezone == local_timezone()
    assert settings.reuse is True
    assert settings.reread == timedelta(days=30)
    assert settings.change_detection == ChangeDetection(ctime=True, inode=True)
    assert settings.timeout is None
    assert settings.catch_up is True
    assert settings.overlap == "skip"
    assert settings.log_files == "auto"
    assert settings.environment == {}


def test_wrong_time_zone_of_the_machine_is_an_error_of_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Europe/Atlantis")
    with pytest.raises(ValidationError, match="Europe/Atlantis"):
        Settings.model_validate({"schedule": "manual"})


def test_constants_of_modules_are_the_settings_in_capitals() -> None:
    assert set(MODULE_CONSTANTS) == {
        *("SCHEDULE", "TIMEZONE", "RANDOMIZED_DELAY", "CATCH_UP", "OVERLAP", "TIMEOUT"),
        *("IDLE_TIMEOUT", "RETRIES", "RETRY_WAIT", "MAX_AGE", "LOG_FILES", "ENVIRONMENT"),
        *("NOTIFY", "BEFORE", "AFTER", "ON_FAILURE", "USER"),
        "HEALTHCHECKS",
    }


def all_models() -> list[type[BaseModel]]:
    kinds = (*INCLUDE_KINDS.values(), *SAVE_KINDS.values())
    return [YamlSettings, ChangeDetection, Lock, Upload, *kinds]


@pytest.mark.parametrize("model", all_models())
def test_each_setting_has_a_description_and_an_example_that_is_good(model: type[BaseModel]) -> None:
    example = {
        name: setting.examples[0]
        for name, setting in model.model_fields.items()
        if setting.description and setting.examples
    }
    assert set(example) == set(model.model_fields)
    model.model_validate(example)


def test_client_keywords_and_upload_options_are_known_to_boto3() -> None:
    keywords = set(inspect.signature(boto3.session.Session.client).parameters)
    own = {"s3", "prefix", "access_key", "secret_key", "upload", "lock"}
    assert set(SaveS3.model_fields) - own <= keywords
    service = botocore.session.get_session().get_service_model("s3")
    for operation in ("PutObject", "CreateMultipartUpload"):
        assert set(Upload.model_fields) <= set(
            service.operation_model(operation).input_shape.members
        )


# The way to a worker


def test_job_comes_out_of_json_as_it_went_in(job: Job) -> None:
    assert Job.from_json(job.to_json()) == job


def test_secrets_go_to_the_worker_readable_and_references_as_references(job: Job) -> None:
    saved = json.loads(job.to_json())["settings"]["save"][0]
    assert saved["access_key"] == {"credential": "s3-key"}
    assert saved["secret_key"] == "plain-secret"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VARIABLE = st.from_regex("[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)
VALUE = TEXT | st.builds(lambda name: {"env": name}, VARIABLE)
SETTINGS = st.fixed_dictionaries(
    {"schedule": st.sampled_from(["manual", "30 2 * * *", ["every 6h", "@daily"]])},
    optional={
        "timezone": st.sampled_from(["Europe/Berlin", "UTC"]),
        "timeout": st.integers(1, 10**6) | st.sampled_from(["90s", "1w1d1h1m1s", "4h"]),
        "catch_up": st.booleans(),
        "overlap": st.sampled_from(["skip", "queue"]),
        "log_files": st.sampled_from(["auto", True, False]),
        "environment": st.dictionaries(VARIABLE, VALUE, max_size=3),
    },
)


@given(values=SETTINGS, source=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_settings_come_out_of_json_as_they_went_in(values: dict[str, Any], source: str) -> None:
    job = Job(
        name="any",
        path="/etc/storelet.d/any.py",
        language="python",
        settings=Settings.model_validate(values),
        source=source,
        lines={"SCHEDULE": 1},
    )
    assert Job.from_json(job.to_json()) == job


def test_worker_must_get_the_variables_that_references_name(values: dict[str, Any]) -> None:
    values["save"][0] |= {"access_key": {"env": "KEY"}, "secret_key": {"file": "/key"}}
    values["encryption"] = {"password": {"env": "PASSWORD"}}
    job = make_job(YamlSettings.model_validate(values))
    assert job.environment_names == {"KEY", "PASSWORD", "TOKEN_OF_US"}


# `show`


def test_show_says_where_each_setting_comes_from(job: Job) -> None:
    shown = job.describe()
    path = "/etc/storelet.d/website.yaml"
    assert list(shown) == list(Settings.model_fields)
    assert shown["schedule"] == {"value": ["30 2 * * *"], "from": f"{path}:2"}
    assert shown["timezone"] == {"value": "Europe/Berlin", "from": f"{path}:3"}
    assert shown["overlap"] == {"value": "skip", "from": "default"}
    assert shown["timeout"]["value"] == "4h"
    assert shown["save"]["value"][0]["access_key"] == {"credential": "s3-key"}
    json.dumps(shown)


def test_show_of_a_module_has_nothing_that_its_code_says() -> None:
    settings = Settings.model_validate({"schedule": "manual"})
    job = Job(name="a", path="/a.py", language="python", settings=settings, source="", lines={})
    shown = job.describe()
    assert not SAID_BY_CODE & set(shown)
    assert {"include", "save", "compression", "reuse", "reread"} <= SAID_BY_CODE
    assert shown["timeout"] == {"value": None, "from": "default"}


def test_plain_secrets_are_masked_wherever_a_job_is_shown(job: Job) -> None:
    shown = job.describe()
    assert shown["save"]["value"][0]["secret_key"] == "***"
    assert shown["save"]["value"][0]["upload"]["SSECustomerKey"] == "***"
    assert shown["encryption"]["value"] == {"password": "***"}
    environment = shown["environment"]["value"]
    assert environment["PGPASSWORD"] == "***"
    assert environment["PGHOST"] == "/run/postgresql"
    assert environment["TOKEN"] == {"env": "TOKEN_OF_US"}
    for text in (repr(job), str(job), repr(job.settings), str(job.settings), json.dumps(shown)):
        assert "plain-secret" not in text
        assert CUSTOMER_KEY not in text


def test_secrets_in_commands_and_variables_are_masked_where_a_name_gives_them_away(
    values: dict[str, Any],
) -> None:
    values["environment"]["DATABASE"] = "postgres://site:plain-secret@db/site"
    values["include"] = [
        {"new_dir": "a", "run": ["env", "PGPASSWORD=plain-secret and more", "pg_dump", "site"]},
        {"new_dir": "b", "run": "PGPASSWORD=plain-secret pg_dump site | gzip > {dir}/site.gz"},
    ]
    job = make_job(YamlSettings.model_validate(values))
    shown = job.describe()
    assert [each["run"] for each in shown["include"]["value"]] == [
        ["env", "PGPASSWORD=***", "pg_dump", "site"],
        "PGPASSWORD=*** pg_dump site | gzip > {dir}/site.gz",
    ]
    assert shown["environment"]["value"]["DATABASE"] == "postgres://***@db/site"
    for text in (repr(job), repr(job.settings), json.dumps(shown)):
        assert "plain-secret" not in text
    assert "plain-secret and more" in job.to_json()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("dump --password=x --user=y", "dump --password=*** --user=y"),
        ("dump --password x y", "dump --password *** y"),
        ("dump --no-password y", "dump --no-password y"),
        ("dump --password='x y' z", "dump --password=*** z"),
        ('dump "--password=x y" z', 'dump "--password=*** z'),
        ("dump --password=x\\ y z", "dump --password=*** z"),
        ("API_TOKEN=$(cat /x | tr a b) dump; ls", "API_TOKEN=*** dump; ls"),
        ("API_TOKEN=x;dump&ls", "API_TOKEN=***;dump&ls"),
        ("sh -c 'export PGPASSWORD=x; dump' && ls", "sh -c 'export PGPASSWORD=*** && ls"),
        ('curl -H "X-Api-Key: x y" z', 'curl -H "X-Api-Key: *** z'),
        ("""curl -d '{"password": "x y"}' z""", """curl -d '{"password": *** z"""),
        ("curl https://x@host/ https://host/a@b", "curl https://***@host/ https://host/a@b"),
        ("# don't\ndump '--secret=x y' z", "# don't\ndump '--secret=*** z"),
        ("dump --secret='x y", "dump --secret=***"),
        (["dump", "--password", "x y", "z"], ["dump", "--password", "***", "z"]),
        (["sh", "-c", "dump --token=x y"], ["sh", "-c", "dump --token=***"]),
        ("uname -a > {dir}/uname\n", "uname -a > {dir}/uname\n"),
    ],
    ids=str,
)
def test_what_a_command_says_of_secrets_is_not_shown(
    command: str | list[str], shown: str | list[str], values: dict[str, Any]
) -> None:
    values["include"] = [{"new_dir": "a", "run": command}]
    job = make_job(YamlSettings.model_validate(values))
    assert job.describe()["include"]["value"][0]["run"] == shown


@pytest.mark.parametrize("piece", ["${", "$(", "://", "key", 'a" ', "=key=", "#", "`", "'", "-"])
def test_showing_a_command_takes_linear_time(piece: str, values: dict[str, Any]) -> None:
    values["include"] = [{"new_dir": "a", "run": piece * 200_000}]
    job = make_job(YamlSettings.model_validate(values))
    begun = time.process_time()
    job.describe()
    assert time.process_time() - begun < 5  # it takes 0.2 s; in quadratic time, minutes


# Problems


def test_problem_reads_file_line_key_message() -> None:
    problem = JobProblem(file="a.yaml", line=3, key="include[1].directory", message="missing")
    assert str(problem) == "a.yaml:3: include[1].directory: missing"
    assert str(JobProblem(file="a.yaml", message="no such file")) == "a.yaml: no such file"


def test_problem_cannot_forge_lines_of_a_log() -> None:
    problem = JobProblem(file="a\udcff\n.yaml", key="\x1b[31m", message="a\nb", hint="ü ✓")
    assert str(problem) == "a\\udcff\\n.yaml: \\x1b[31m: a\\nb"
    assert problem.hint == "ü ✓"


def test_job_file_error_tells_every_problem() -> None:
    problems = [JobProblem(file="a", message="one", hint="do"), JobProblem(file="a", message="two")]
    error = JobFileError(problems)
    assert str(error) == "a: one\na: two"
    assert error.exit_code == 78
    assert JobFileError(problems[:1]).hint == "do"


# The JSON Schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_schema_takes_the_example(
    validator: jsonschema.Draft202012Validator, values: dict[str, Any]
) -> None:
    validator.validate(values)


def spoil(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (values | changes).items() if value is not ...}


BUCKET = {"s3": "my-bucket"}
OWN_KEY = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": CUSTOMER_KEY}
SPOILT: list[dict[str, Any]] = [
    {"keep": {"last": 0}},
    {"keep": {"dayly": 7}},
    {"keep": {"daily": -1}},
    {"keep": {"within": "soon"}},
    {"keep": 3},
    {"schedule": ...},
    {"schedule": 5},
    {"schedule": []},
    {"timezone": None},
    {"timeout": None},
    {"timeout": 0},
    {"timeout": "soon"},
    {"catch_up": "yes"},
    {"reuse": "yes"},
    {"reread": None},
    {"reread": "often"},
    {"reread": 86_399},
    {"change_detection": False},
    {"change_detection": {"ctime": 0}},
    {"change_detection": {"ctim": False}},
    {"encryption": None},
    {"encryption": {}},
    {"encryption": "secret"},
    {"encryption": {"password": ""}},
    {"encryption": {"password": 777123}},
    {"encryption": {"password": {"credential": "a", "env": "b"}}},
    {"encryption": {"passwort": "secret"}},
    {"overlap": "wait"},
    {"log_files": 1},
    {"environment": {"1A": "x"}},
    {"environment": {"A": 5}},
    {"include": ...},
    {"include": []},
    {"include": [{"directory": "/a", "file": "/b"}]},
    {"include": [{"directory": "a"}]},
    {"include": [{"directory": "/a", "excludes": ["x"]}]},
    {"include": [{"directory": "/a", "name": None}]},
    {"include": [{"directory": "/a", "exclude": "x"}]},
    {"include": [{"file": "/a", "exclude": ["x"]}]},
    {"include": [{"new_dir": "a"}]},
    {"include": [{"new_dir": "a", "run": []}]},
    {"include": [{"new_dir": "a", "run": ["b"], "user": "a:b"}]},
    {"include": [{"new_dir": "a", "run": ["b"], "user": 0}]},
    {"include": [{"new_dir": "a", "run": ["b"], "privileged": True, "user": "b"}]},
    {"user": "0"},
    {"include": ["/a"]},
    {"save": ...},
    {"save": []},
    {"save": [BUCKET | {"directory": "/a"}]},
    {"save": [BUCKET | {"access_key": "a"}]},
    {"save": [BUCKET | {"secret_key": "a"}]},
    {"save": [BUCKET | {"aws_session_token": "a"}]},
    {"save": [BUCKET | {"access_key": {}, "secret_key": "a"}]},
    {"save": [BUCKET | {"access_key": {"env": "a", "file": "/b"}, "secret_key": "a"}]},
    {"save": [BUCKET | {"endpoint_url": "s3.example.org"}]},
    {"save": [BUCKET | {"endpoint_url": "https://user:pw@s3.example.org/"}]},
    {"save": [BUCKET | {"endpoint_url": "https://user@s3.example.org"}]},
    {"save": [BUCKET | {"regionname": "x"}]},
    {"save": [BUCKET | {"upload": {"StorageClas": "x"}}]},
    {"save": [BUCKET | {"upload": {"SSECustomerKey": CUSTOMER_KEY}}]},
    {"save": [BUCKET | {"upload": {"SSECustomerAlgorithm": "AES256"}}]},
    {"save": [BUCKET | {"upload": OWN_KEY | {"SSECustomerAlgorithm": "x"}}]},
    {"save": [BUCKET | {"upload": OWN_KEY | {"SSECustomerKey": "k" * 32}}]},
    {"save": [BUCKET | {"upload": OWN_KEY | {"SSECustomerKey": CUSTOMER_KEY[4:]}}]},
    {"save": [BUCKET | {"lock": True}]},
    {"save": [BUCKET | {"lock": {"mode": "governance"}}]},
    {"save": [BUCKET | {"lock": {"mode": "soft", "retain": "30d"}}]},
    {"save": [BUCKET | {"lock": {"mode": "governance", "retain": 0}}]},
    {"save": [{"directory": "/a", "lock": {"mode": "governance", "retain": "30d"}}]},
]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"postgresql": "a", "host": "one"}, {"postgresql": "b", "host": "two"}),
        ({"mariadb": "all", "name": "x"}, {"mongodb": "all", "name": "x/"}),
        ({"sqlite": "/a/shop.db"}, {"sqlite": "/b/shop.db"}),
    ],
)
def test_databases_have_places_of_their_own_in_the_archive(
    values: dict[str, Any], tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Else nobody knew, when one is to be restored, of which item it is."""
    path = tmp_path / "website.yaml"
    path.write_text(yaml.safe_dump(values | {"include": [one, other]}))
    with pytest.raises(JobFileError, match=r"include: expected one item of databases for"):
        read_job(path)
    path.write_text(yaml.safe_dump(values | {"include": [one, {**other, "name": "another"}]}))
    read_job(path)


@pytest.mark.parametrize("change", SPOILT, ids=str)
def test_schema_and_reader_refuse_the_same(
    validator: jsonschema.Draft202012Validator,
    values: dict[str, Any],
    change: dict[str, Any],
    tmp_path: Path,
) -> None:
    spoilt = spoil(values, **change)
    assert not validator.is_valid(spoilt)
    (tmp_path / "website.yaml").write_text(yaml.safe_dump(spoilt))
    with pytest.raises(JobFileError):
        read_job(tmp_path / "website.yaml")


def test_schema_has_defaults_that_it_takes(
    validator: jsonschema.Draft202012Validator, values: dict[str, Any]
) -> None:
    settings = json_schema()["properties"]
    defaults = {name: each["default"] for name, each in settings.items() if "default" in each}
    assert defaults["reread"] == "30d"
    validator.validate(values | defaults)


def test_schema_explains_itself_to_editors() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "Storelet job file"
    for name in YamlSettings.model_fields:
        described = schema["properties"][name]
        assert described["description"]
        assert described["examples"]


def test_job_model_needs_neither_boto3_nor_a_deflate_engine() -> None:
    code = (
        "import sys, storeletd.jobdir, storeletd.jobfile\n"
        "heavy = ('boto3', 'botocore', 'isal', 'deflate', 'zlib_ng')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
