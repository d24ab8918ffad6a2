"""The status that an error becomes, and what travels with it."""

from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.ingest.grpc.answers import failure
from tas_mcp.errors import Flaw, Overloaded, Rejected, TasError, Unavailable


def details(error: TasError) -> dict[str, Any]:
    """The details, decoded, by the name of their type."""
    status = status_pb2.Status.FromString(failure(error).details)
    found = {}
    for each in status.details:
        name = each.type_url.rpartition(".")[2]
        message: Message = getattr(error_details_pb2, name)()
        assert each.Unpack(message)
        found[name] = message
    return found


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Rejected("INVALID_EVENT", "x"), code_pb2.INVALID_ARGUMENT, "INVALID_EVENT"),
        (Rejected("SCHEMA_VIOLATION", "x"), code_pb2.INVALID_ARGUMENT, "SCHEMA_VIOLATION"),
        (Rejected("EVENT_TOO_LARGE", "x"), code_pb2.INVALID_ARGUMENT, "EVENT_TOO_LARGE"),
        (Rejected("UNAUTHORIZED", "x"), code_pb2.UNAUTHENTICATED, "UNAUTHORIZED"),
        (Rejected("FORBIDDEN", "x"), code_pb2.PERMISSION_DENIED, "FORBIDDEN"),
        (Overloaded("x", 2.5), code_pb2.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
        (Unavailable("x"), code_pb2.UNAVAILABLE, "UNAVAILABLE"),
        (TasError("x"), code_pb2.INTERNAL, "INTERNAL"),
    ],
)
def test_the_code_of_an_error(error: TasError, code: int, reason: str) -> None:
    found = failure(error)
    assert (found.code, found.text) == (code, "x")
    assert details(error)["ErrorInfo"].reason == reason


@pytest.mark.parametrize(("error", "seconds"), [(Overloaded("x", 2.5), 2.5), (Unavailable("x", 5.0), 5.0)])
def test_what_works_later_says_when(error: TasError, seconds: float) -> None:
    assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() / 1e9 == seconds


def test_flaws_are_field_violations() -> None:
    error = Rejected("SCHEMA_VIOLATION", "x", [Flaw("/data/items/0/a~1b", "is no number"), Flaw("", "has too many members")])
    found = details(error)["BadRequest"].field_violations
    assert [(each.field, each.description) for each in found] == [
        ("data.items.0.a/b", "is no number"),
        ("", "has too many members"),
    ]


def test_an_error_fits_into_the_trailers_of_any_client() -> None:
    """8 KiB, of the text as percent-encoding and of the details as base64."""
    error = Rejected("SCHEMA_VIOLATION", "ä" * 10_000, [Flaw(f"/data/{index}", "ö" * 1000) for index in range(100)])
    found = failure(error)
    assert 3 * len(found.text.encode()) + len(found.details) * 4 / 3 < 8000
    assert 0 < len(details(error)["BadRequest"].field_violations) < 100
