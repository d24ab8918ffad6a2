"""What clients of the event routes are answered, whatever lane or protocol they came by. Pure: values in, status, headers and
body out."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Struct, UnsetType

from services.ingest.intake import Accepted
from services.ingest.paths import EVENTS_PATH
from services.ingest.waits import Progress, Wait
from tas_mcp.errors import Overloaded, Rejected, TasError, Unavailable
from tas_mcp.http import problem, problem_headers

JSON = "application/json"

encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    """An HTTP answer; ``headers`` are besides Content-Type and Content-Length."""

    status: int
    content_type: str
    headers: dict[str, str]
    body: bytes


class _Error(Struct):
    code: str
    detail: str
    pointer: str | UnsetType = UNSET


class Result(Struct, kw_only=True):
    """What came of one of many events, as clients see it."""

    event_id: str | UnsetType = UNSET
    status: str
    duplicate: bool | UnsetType = UNSET
    error: _Error | UnsetType = UNSET


class _Waited(Struct):
    event_id: str
    status: str
    complete: bool
    deliveries: Sequence[Progress]


class _Batch(Struct):
    processed: int
    accepted: int
    duplicates: int
    rejected: int
    results: list[Result]


def one(answer: Accepted | TasError, request_id: str) -> Answer:
    """The answer to a single event."""
    if isinstance(answer, TasError):
        return refused(answer, request_id)
    return Answer(200, JSON, {"Location": location(answer.event_id)}, encode(answer))


def waited(answer: Accepted, wait: Wait) -> Answer:
    """The answer to a single event that was waited for."""
    headers = {"Location": location(answer.event_id), "Preference-Applied": "wait"}
    return Answer(200, JSON, headers, encode(_Waited(answer.event_id, answer.status, wait.complete, wait.deliveries)))


def location(event_id: str) -> str:
    """Where the event can be read."""
    return f"{EVENTS_PATH}/{quote(event_id, safe='')}"


def refused(error: TasError, request_id: str) -> Answer:
    """An error as a problem."""
    shown = problem(error, request_id)
    return Answer(shown.status, "application/problem+json", problem_headers(error, request_id), encode(shown))


def batch(answers: Sequence[Accepted | TasError], request_id: str) -> Answer:
    """200 with a result for each entry; 503 or 429 as a whole only when nothing was stored and something may be later."""
    if (refusal := whole(answers)) is not None:
        return refused(refusal, request_id)
    accepted = sum(isinstance(answer, Accepted) for answer in answers)
    duplicates = sum(isinstance(answer, Accepted) and answer.duplicate is True for answer in answers)
    rejected = sum(isinstance(answer, Rejected) for answer in answers)
    results = [result(answer) for answer in answers]
    return Answer(200, JSON, {}, encode(_Batch(len(results), accepted, duplicates, rejected, results)))


def whole(answers: Sequence[Accepted | TasError]) -> Unavailable | Overloaded | None:
    """What refuses a batch as a whole: nothing of it was stored, and something may be later."""
    if any(isinstance(answer, Accepted) for answer in answers):
        return None
    return next((answer for answer in answers if isinstance(answer, Unavailable | Overloaded)), None)


def result(answer: Accepted | TasError) -> Result:
    """What came of one of many events."""
    if isinstance(answer, Accepted):
        return Result(event_id=answer.event_id, status="accepted", duplicate=answer.duplicate)
    shown = problem(answer)
    pointer = answer.flaws[0].pointer if isinstance(answer, Rejected) and answer.flaws else UNSET
    status = "rejected" if isinstance(answer, Rejected) else "unavailable"
    return Result(status=status, error=_Error(shown.code, shown.detail, pointer))
