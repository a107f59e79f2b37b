"""The errors: one tree, each with a message, a hint and an exit code."""

from __future__ import annotations

import pickle

import pytest

import storelet
from storelet import errors


def every_error() -> list[type[storelet.StoreletError]]:
    return [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


def test_every_error_is_a_storelet_error_and_public() -> None:
    for error in every_error():
        assert issubclass(error, storelet.StoreletError)
        assert getattr(storelet, error.__name__) is error


@pytest.mark.parametrize("error", every_error())
def test_an_error_is_its_message_and_its_hint(error: type[storelet.StoreletError]) -> None:
    plain, hinted = error("no such thing"), error("no such thing", hint="make one")
    assert str(plain) == plain.message == "no such thing"
    assert plain.hint is None
    assert str(hinted) == "no such thing (make one)"
    assert (hinted.message, hinted.hint) == ("no such thing", "make one")


@pytest.mark.parametrize("error", every_error())
def test_an_error_keeps_its_hint_between_processes(error: type[storelet.StoreletError]) -> None:
    again = pickle.loads(pickle.dumps(error("no such thing", hint="make one")))  # noqa: S301
    assert type(again) is error
    assert (again.message, again.hint) == ("no such thing", "make one")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (storelet.StoreletError, 1),
        (storelet.SourceError, 1),
        (storelet.SourceMissingError, 1),
        (storelet.UsageError, 2),
        (storelet.DestinationError, 1),
        (storelet.DestinationMissingError, 10),
        (storelet.CredentialsError, 12),
        (storelet.PermissionDeniedError, 77),
        (storelet.ArchiveExistsError, 1),
    ],
)
def test_exit_codes_do_not_change(error: type[storelet.StoreletError], exit_code: int) -> None:
    assert error.exit_code == exit_code


@pytest.mark.parametrize("error", every_error())
def test_no_error_is_temporary_unless_that_is_said_of_it(
    error: type[storelet.StoreletError],
) -> None:
    assert not error("no such thing").is_temporary


@pytest.mark.parametrize(("one", "other"), [(True, True), (True, False), (False, False)])
def test_errors_are_temporary_together_where_all_are(one: bool, other: bool) -> None:
    first, second = storelet.DestinationError("first"), storelet.DestinationError("second")
    first.is_temporary, second.is_temporary = one, other
    assert storelet.join_errors([first]).is_temporary == one
    assert storelet.join_errors([first, second]).is_temporary == (one and other)


@pytest.mark.parametrize(
    ("error", "idea"),
    [
        (storelet.SourceMissingError, FileNotFoundError),
        (storelet.DestinationMissingError, FileNotFoundError),
        (storelet.PermissionDeniedError, PermissionError),
        (storelet.ArchiveExistsError, FileExistsError),
        (storelet.UsageError, ValueError),
    ],
)
def test_where_python_has_the_idea_a_script_may_catch_that(
    error: type[storelet.StoreletError], idea: type[Exception]
) -> None:
    with pytest.raises(idea, match="no such thing"):
        raise error("no such thing", hint="make one")
