"""What clients are answered. Pure: what came of an event or a call in, messages and statuses out."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.ingest.intake import Accepted
from tas_mcp.errors import Flaw, Overloaded, Rejected, TasError, Unavailable
from tas_mcp.http import problem
from tas_mcp.v1 import mcp_pb2

CODES = {
    "UNAUTHORIZED": code_pb2.UNAUTHENTICATED,
    "FORBIDDEN": code_pb2.PERMISSION_DENIED,
    "NOT_FOUND": code_pb2.NOT_FOUND,
}
"""The codes of what is refused for good; of all others, which no change of time or place would help, INVALID_ARGUMENT."""
DOMAIN = "tas-mcp"
TEXT_CHARACTERS = 500
DETAILS_BYTES = 3072
"""What an error may take of the trailing metadata: clients refuse an answer with more than 8 KiB of them (the default of
``grpc.max_metadata_size``), in which a binary value is a third longer, and a character of the text may be three times as long."""


class Failure(NamedTuple):
    """How a call ends that failed: a ``google.rpc.Code``, the text, and the encoded ``google.rpc.Status`` with the details."""

    code: int
    text: str
    details: bytes


def failure(error: TasError) -> Failure:
    """The end for an error: the problem's text, with ``ErrorInfo`` (its code), ``BadRequest`` (each field that is wrong) and
    ``RetryInfo`` (when to come back), as google/rpc/error_details.proto has them."""
    match error:
        case Rejected():
            code = CODES.get(error.code, code_pb2.INVALID_ARGUMENT)
        case Overloaded():
            code = code_pb2.RESOURCE_EXHAUSTED
        case Unavailable():
            code = code_pb2.UNAVAILABLE
        case _:
            code = code_pb2.INTERNAL
    text = error.detail[:TEXT_CHARACTERS]
    status = status_pb2.Status(code=code, message=text)
    _add(status, error_details_pb2.ErrorInfo(reason=problem(error).code, domain=DOMAIN))
    if isinstance(error, Overloaded | Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(math.ceil(error.retry_after * 1e9))
        _add(status, retry)
    if isinstance(error, Rejected) and error.flaws:
        _add(status, _bad_request(error.flaws, DETAILS_BYTES - status.ByteSize()))
    return Failure(code, text, status.SerializeToString())


def _add(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _bad_request(flaws: Iterable[Flaw], room: int) -> error_details_pb2.BadRequest:
    """As many of the flaws as there is room for."""
    found = error_details_pb2.BadRequest()
    for flaw in flaws:
        field = flaw.pointer.removeprefix("/").replace("/", ".").replace("~1", "/").replace("~0", "~")
        one = error_details_pb2.BadRequest.FieldViolation(
            field=field[:TEXT_CHARACTERS], description=flaw.detail[:TEXT_CHARACTERS]
        )
        room -= one.ByteSize()
        if room < 0:
            break
        found.field_violations.append(one)
    return found


def stored(answer: Accepted, now: float) -> mcp_pb2.IngestEventResponse:
    """The answer to a single event."""
    message = "stored before" if answer.duplicate is True else "stored"
    return mcp_pb2.IngestEventResponse(
        event_id=answer.event_id, success=True, message=message, timestamp=int(now), status=answer.status
    )


def ack(sequence: int, answers: Iterable[Accepted | TasError]) -> mcp_pb2.IngestAck:
    """The answer to a batch."""
    found = mcp_pb2.IngestAck(sequence=sequence)
    add = found.results.add  # half the cost of making them first
    for answer in answers:
        if isinstance(answer, Accepted):
            add(event_id=answer.event_id, status=answer.status)
        else:
            status = "rejected" if isinstance(answer, Rejected) else "unavailable"
            add(status=status, code=problem(answer).code, message=answer.detail)
    return found
