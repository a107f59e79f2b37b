"""Deleting from S3: batches, stores that know none, races, keys that may not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from botocore.config import Config

import storelet
from storelet.destination.contract import Stored
from storelet.destination.s3 import S3
from tests.helpers import Bucket, MotoServer
from tests.proxy import Answer, Fault, Proxy, Request, error_answer, inject

NAMES = [f"example_201304{day:02}163000.zip" for day in range(1, 5)]
ALL = [1, 4]  # one by itself, and several together


@pytest.fixture
def proxy(moto_server: MotoServer) -> Iterator[Proxy]:
    """Run an S3 whose answers a test may change."""
    with Proxy(moto_server.endpoint) as proxy:
        yield proxy


def open_s3(bucket: Bucket | str, proxy: Proxy, attempts: int = 1) -> S3:
    return S3(
        bucket if isinstance(bucket, str) else bucket.name,
        "AKIDAKID" if isinstance(bucket, str) else bucket.access_key,
        "s3cr3t" if isinstance(bucket, str) else bucket.secret_key,
        prefix="some/where/",
        region_name="us-east-1",
        endpoint_url=proxy.endpoint,
        config=Config(retries={"total_max_attempts": attempts}),
    )


def fill(bucket: Bucket, proxy: Proxy, count: int, bad: int = 0) -> list[Stored]:
    """Put archives, mark the first of them as bad, and list them."""
    destination = open_s3(bucket, proxy)
    for name in NAMES[:count]:
        bucket.client.put_object(Bucket=bucket.name, Key=f"some/where/{name}", Body=b"content")
    for archive in destination.list_archives("example")[:bad]:
        destination.mark_bad(archive, "because")
    listed = destination.list_archives("example")
    proxy.requests.clear()
    return listed


def names(bucket: Bucket) -> list[str]:
    return [key.removeprefix("some/where/") for key in bucket.keys()]  # noqa: SIM118


def refuse(*codes: str) -> Answer:
    """Answer a batch: 200, with an error for each of the first keys."""
    errors = "".join(
        f"<Error><Key>some/where/{name}</Key><Code>{code}</Code><Message>no</Message></Error>"
        for name, code in zip(NAMES, codes, strict=False)
    )
    return Answer(status=200, body=f"<DeleteResult>{errors}</DeleteResult>".encode())


# Batches ----------------------------------------------------------------------------------------


def test_several_go_by_one_request_and_their_marks_by_another(
    s3_server: Bucket, proxy: Proxy
) -> None:
    archives = fill(s3_server, proxy, 4, bad=2)
    open_s3(s3_server, proxy).delete_archives(archives)
    assert names(s3_server) == []
    assert sorted(proxy.actions[:4]) == ["HeadObject"] * 4
    assert proxy.actions[4:] == ["DeleteObjects", "DeleteObjects"]
    first, second = (request.body.decode() for request in proxy.requests[4:])
    assert ".bad" not in first
    assert first.count("<ETag>") == 4, "each under the condition that it is what was listed"
    assert re.findall(r"<Key>(.*?)</Key>", second) == [f"some/where/{n}.bad" for n in NAMES[:2]]


def test_a_batch_has_a_thousand_keys_at_most() -> None:
    def answer(request: Request) -> Answer:
        if request.action == "HeadObject":
            headers = {
                "ETag": '"x"',
                "Content-Length": "7",
                "Last-Modified": "Sun, 21 Apr 2013 16:30:00 GMT",
            }
            return Answer(status=200, body=b"", headers=headers)
        return Answer(status=204 if request.method == "DELETE" else 200, body=b"<DeleteResult/>")

    archives = [
        Stored(name=f"example_{number:014}.zip", size=7, version='"x"', modified=0)
        for number in range(2001)
    ]
    with Proxy(script=answer) as proxy:
        open_s3("my-bucket", proxy).delete_archives(archives)
        batches = [each for each in proxy.requests if each.action == "DeleteObjects"]
        keys = [re.findall(r"<Key>(.*?)</Key>", each.body.decode()) for each in batches]
        (single,) = [each.path for each in proxy.requests if each.action == "DeleteObject"]
    assert [len(each) for each in keys] == [1000, 1000]
    assert {*keys[0], *keys[1]} == {f"some/where/{each.name}" for each in archives[:2000]}
    assert archives[2000].name in single


@pytest.mark.parametrize(
    "refusal",
    [
        error_answer(400, "MissingContentMD5"),
        error_answer(400, "InvalidRequest", "Missing required header for this request"),
        error_answer(400, "MalformedXML"),
        error_answer(403, "AccessDenied"),
        error_answer(405, "MethodNotAllowed"),
        error_answer(411, "MissingContentLength"),
        error_answer(501, "NotImplemented"),
    ],
    ids=lambda answer: str(answer.body),
)
def test_where_there_are_no_batches_each_goes_by_itself(
    s3_server: Bucket, proxy: Proxy, refusal: Answer
) -> None:
    archives = fill(s3_server, proxy, 4, bad=2)
    proxy.script = inject(Fault(said=refusal, action="DeleteObjects"))
    open_s3(s3_server, proxy).delete_archives(archives[:3])
    assert names(s3_server) == [NAMES[3]]
    assert proxy.actions.count("DeleteObject") == 5


def test_a_store_that_is_down_is_a_temporary_error_and_no_lack_of_batches(
    s3_server: Bucket, proxy: Proxy
) -> None:
    archives = fill(s3_server, proxy, 4)
    proxy.script = inject(Fault(said=error_answer(503, "SlowDown"), action="DeleteObjects"))
    with pytest.raises(storelet.DestinationError) as raised:
        open_s3(s3_server, proxy).delete_archives(archives)
    assert raised.value.is_temporary
    assert "DeleteObject" not in proxy.actions
    assert names(s3_server) == NAMES


# Errors inside the answer -----------------------------------------------------------------------


def test_what_a_batch_refuses_is_an_error_that_names_archive_and_permission(
    s3_server: Bucket, proxy: Proxy
) -> None:
    """A policy may protect some of them. The mark of one that stays, stays."""
    archives = fill(s3_server, proxy, 4, bad=1)

    def script(request: Request) -> Answer | None:
        if request.action != "DeleteObjects" or b".bad" in request.body:
            return None
        for name in NAMES[2:]:
            s3_server.client.delete_object(Bucket=s3_server.name, Key=f"some/where/{name}")
        return refuse("AccessDenied", "AccessDenied")

    proxy.script = script
    with pytest.raises(storelet.PermissionDeniedError) as raised:
        open_s3(s3_server, proxy).delete_archives(archives)
    who, what = raised.value.message.split(": ", 1)
    assert who == f"{NAMES[0]} and 1 more"
    assert what.startswith("the key may not delete from bucket ")
    assert "s3:DeleteObject" in str(raised.value.hint)
    assert raised.value.exit_code == 77
    assert names(s3_server) == [NAMES[0], f"{NAMES[0]}.bad", NAMES[1]]
    assert "DeleteObject" not in proxy.actions


def test_what_a_batch_could_not_do_is_done_by_itself(s3_server: Bucket, proxy: Proxy) -> None:
    archives = fill(s3_server, proxy, 4, bad=4)
    said = refuse("InternalError", "SlowDown", "NoSuchKey", "PreconditionFailed")
    proxy.script = inject(Fault(said=said, action="DeleteObjects", last=1))
    open_s3(s3_server, proxy).delete_archives(archives)
    assert names(s3_server) == [NAMES[2]]  # which it said was gone
    assert proxy.actions.count("DeleteObject") == 3


@pytest.mark.parametrize("count", ALL)
def test_a_key_that_may_not_delete_is_an_error_that_names_the_permission(
    s3_server: Bucket, proxy: Proxy, count: int
) -> None:
    archives = fill(s3_server, proxy, count, bad=1)
    proxy.script = lambda request: (
        error_answer(403, "AccessDenied") if request.action.startswith("DeleteObj") else None
    )
    with pytest.raises(storelet.PermissionDeniedError, match="may not delete from") as raised:
        open_s3(s3_server, proxy).delete_archives(archives)
    assert "s3:DeleteObject" in str(raised.value.hint)
    assert names(s3_server) == sorted([*NAMES[:count], f"{NAMES[0]}.bad"])


@pytest.mark.parametrize("count", ALL)
def test_a_key_that_may_not_look_deletes_nothing(
    s3_server: Bucket, proxy: Proxy, count: int
) -> None:
    archives = fill(s3_server, proxy, count)
    proxy.script = inject(Fault(said=Answer(status=403), action="HeadObject"))
    with pytest.raises(storelet.PermissionDeniedError) as raised:
        open_s3(s3_server, proxy).delete_archives(archives)
    assert "s3:GetObject" in str(raised.value.hint)
    assert names(s3_server) == NAMES[:count]


# Nothing but what was listed --------------------------------------------------------------------


@pytest.mark.parametrize(("store", "count"), [("s3_server", 1), ("seaweedfs", 1), ("seaweedfs", 3)])
def test_what_comes_under_the_name_after_it_was_looked_at_is_not_deleted(
    request: pytest.FixtureRequest, store: str, count: int
) -> None:
    """Both take a condition by itself; moto has no conditions in batches."""
    bucket: Bucket = request.getfixturevalue(store)
    assert bucket.endpoint is not None
    with Proxy(bucket.endpoint) as proxy:
        archives = fill(bucket, proxy, count, bad=1)

        def come(request: Request) -> None:
            if request.action.startswith("DeleteObj"):
                key = f"some/where/{NAMES[0]}"
                bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"another")

        proxy.script = come
        with pytest.raises(
            storelet.DestinationError, match="another archive has its name"
        ) as raised:
            open_s3(bucket, proxy).delete_archives(archives)
    assert raised.value.message.startswith(f"{NAMES[0]}: ")
    assert names(bucket) == [NAMES[0], f"{NAMES[0]}.bad"]
    assert bucket.read(f"some/where/{NAMES[0]}") == b"another"


def test_a_store_without_conditions_deletes_all_the_same(s3_server: Bucket, proxy: Proxy) -> None:
    archives = fill(s3_server, proxy, 1, bad=1)
    proxy.script = lambda request: (
        error_answer(501, "NotImplemented") if "if-match" in request.headers else None
    )
    open_s3(s3_server, proxy).delete_archives(archives)
    assert names(s3_server) == []


@pytest.mark.parametrize("answer", [None, error_answer(412, "PreconditionFailed")])
def test_an_answer_that_is_lost_hides_no_success(
    s3_server: Bucket, proxy: Proxy, answer: Answer | None
) -> None:
    """Asked again for what is gone, S3 says 404 where there is a condition, SeaweedFS 412."""
    archives = fill(s3_server, proxy, 1, bad=1)
    faults = [Fault(said="lose", action="DeleteObject", last=1)]
    if answer is not None:
        faults.append(Fault(said=answer, action="DeleteObject", first=2, last=2))
    proxy.script = inject(*faults)
    open_s3(s3_server, proxy, attempts=2).delete_archives(archives)
    assert names(s3_server) == []


def test_a_condition_that_fails_though_nothing_has_changed_is_an_error(
    s3_server: Bucket, proxy: Proxy
) -> None:
    archives = fill(s3_server, proxy, 1, bad=1)
    said = error_answer(412, "PreconditionFailed")
    proxy.script = inject(Fault(said=said, action="DeleteObject"))
    with pytest.raises(storelet.DestinationError, match="PreconditionFailed"):
        open_s3(s3_server, proxy).delete_archives(archives)
    assert names(s3_server) == [NAMES[0], f"{NAMES[0]}.bad"]


@pytest.mark.parametrize("count", ALL)
def test_broken_off_between_archive_and_mark_leaves_the_mark(
    s3_server: Bucket, proxy: Proxy, count: int
) -> None:
    """The other way round, a bad archive would look good."""
    archives = fill(s3_server, proxy, count, bad=count)
    deleted = 0

    def script(request: Request) -> str | None:
        nonlocal deleted
        if request.action.startswith("DeleteObj"):
            deleted += 1
            return "reset" if deleted > 1 else None
        return None

    proxy.script = script
    with pytest.raises(storelet.DestinationError):
        open_s3(s3_server, proxy).delete_archives(archives)
    assert names(s3_server) == [f"{name}.bad" for name in NAMES[:count]]
