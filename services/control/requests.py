"""What the management API reads from every request alike: JSON bodies, pages, preconditions."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from aiohttp import web

from services.control.topology import Topology
from tas_mcp.audit import Note
from tas_mcp.callers import Caller
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.http import Handler, answering, json_response, problem, read_body, request_id
from tas_mcp.messages import Event
from tas_mcp.validation import flaw

BODY_BYTES = 1_048_576
BODY_SECONDS = 10.0
LIMIT = 100
MAX_LIMIT = 1000
MAX_COMMENT = 500

CALLER = web.RequestKey("caller", Caller)
"""Who sends a request, as ``access`` found out."""
ADDRESS = web.RequestKey("address", str)
"""And from where."""

SHOWN_FAILURES = 20

T = TypeVar("T")


class Record(Protocol):
    """What a stream sequence names."""

    @property
    def seq(self) -> int: ...


R = TypeVar("R", bound=Record)
E = TypeVar("E")

_TAG = re.compile(r'(?:W/)?"([^"]*)"\Z').match

Precondition = Callable[[int], None]
"""Given the revision of what is there (0: nothing), says by ``Rejected`` that the caller wants another."""


class Page(NamedTuple):
    """The part of a list that is asked for: at most ``limit`` items after ``cursor`` (``""``: from the start)."""

    limit: int
    cursor: str


def guarded(topology: Topology, handler: Handler) -> Handler:
    """Wrap a handler: errors become problems, and it is not called before the streams are made."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await topology.made()
        return await handler(request)

    return answering(handle)


async def json_body(request: web.Request) -> Any:
    """The decoded body.

    Raises:
        Rejected: ``UNSUPPORTED_MEDIA_TYPE``, ``TOO_LARGE``, or ``INVALID_REQUEST`` where it is no JSON.
    """
    if request.content_type != "application/json":
        given = request.headers.get("Content-Type", "")
        raise Rejected("UNSUPPORTED_MEDIA_TYPE", f"Content-Type {given!r}: send application/json")
    body = await _body(request)
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        what = flaw(error)
        raise Rejected("INVALID_REQUEST", f"the body is no JSON: {what.detail}", [what]) from None


async def body_of(request: web.Request, kind: type[T]) -> T:
    """The decoded body, of a certain form.

    Raises:
        Rejected: see ``json_body``; ``INVALID_REQUEST`` where it is of another form.
    """
    try:
        return msgspec.convert(await json_body(request), kind)
    except msgspec.ValidationError as error:
        what = flaw(error)
        raise Rejected("INVALID_REQUEST", f"the body: {what.pointer} {what.detail}", [what]) from None


def caller_of(request: web.Request) -> Caller:
    """Who sends a request."""
    return request[CALLER]


def may_see(request: web.Request, event: Event | None) -> bool:
    """Whether the caller has to do with an event (None: one that cannot be read)."""
    caller = caller_of(request)
    return not caller.restricted or (event is not None and caller.covers(event.event_type, event.source))


def note(request: web.Request) -> Note:
    """Who makes the change that is asked for, and the comment given with ``?comment=``."""
    comment = request.query.get("comment", "").strip()
    if trouble := unfit_comment(comment):
        raise _bad_parameter("comment", trouble)
    return Note(caller_of(request).name, comment, request[ADDRESS], request_id(request))


def unfit_comment(comment: str) -> str:
    """What is wrong with a comment, or ``""``."""
    if len(comment) > MAX_COMMENT:
        return f"is longer than {MAX_COMMENT} characters"
    return "" if comment.isprintable() else "must be one line of text without control characters"


async def _body(request: web.Request) -> bytes:
    too_large = f"the body is larger than {BODY_BYTES} bytes"
    if (request.content_length or 0) > BODY_BYTES:
        raise Rejected("TOO_LARGE", too_large)
    body = await read_body(request, BODY_SECONDS, too_large)
    if len(body) > BODY_BYTES:
        raise Rejected("TOO_LARGE", too_large)
    return body


def page(request: web.Request) -> Page:
    """The page asked for by ``?limit=&cursor=``."""
    text = request.query.get("limit", str(LIMIT))
    limit = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise _bad_parameter("limit", f"{text!r} is no number from 1 to {MAX_LIMIT}")
    return Page(limit, request.query.get("cursor", ""))


def choice(request: web.Request, name: str, choices: tuple[str, ...]) -> str:
    """A query parameter that is one of a few words; the first where it is absent."""
    given = request.query.get(name, choices[0])
    if given not in choices:
        raise _bad_parameter(name, f"{given!r} is none of {', '.join(choices)}")
    return given


def sequence(request: web.Request, cursor: str) -> int:
    """A cursor that is a stream sequence; 1 where it is empty."""
    if not cursor:
        return 1
    if not re.fullmatch(r"[0-9]{1,18}", cursor) or int(cursor) < 1:
        raise _bad_parameter("cursor", f"{cursor!r} is none that {request.path} gave")
    return int(cursor)


def cursor(seq: int | None) -> str | None:
    """Where the next page starts, as ``sequence`` reads it."""
    return None if seq is None else str(seq)


def record(request: web.Request, what: str) -> int:
    """The id in the path, where ids are stream sequences; ``what`` it is the id of.

    Raises:
        Rejected: ``NOT_FOUND``: it is no sequence.
    """
    text = request.match_info["id"]
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise Rejected("NOT_FOUND", f"there is no {what} {text!r}")
    return int(text)


async def each_of(
    records: Iterable[R], act: Callable[[R], Awaitable[object]], told: Callable[[int, int], Awaitable[object]]
) -> tuple[int, dict[str, Any]]:
    """Act on each record of a page; those that cannot be acted on stay. How many were, and what the answer says of the others.
    ``told`` is called with how many were and were not, if any were, even where the broker went away between them."""
    failures: list[dict[str, Any]] = []
    done = 0
    try:
        for record in records:
            try:
                await act(record)
                done += 1
            except Rejected as error:
                failures.append({"id": str(record.seq), "code": problem(error).code, "detail": error.detail})
    finally:
        if done:
            await told(done, len(failures))
    return done, {"failed": len(failures), "failures": failures[:SHOWN_FAILURES]}


def after(entries: Iterable[E], key: Callable[[E], str], asked: Page) -> tuple[list[E], str | None]:
    """The page of a list that is sorted by its key, and the cursor of the next one."""
    rest = [entry for entry in entries if key(entry) > asked.cursor]
    items = rest[: asked.limit]
    return items, key(items[-1]) if len(rest) > len(items) else None


def changed(
    body: dict[str, Any], revision: int, in_force: bool, code: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """The answer to a change of a document."""
    told = body if in_force else {**body, "in_force": False}
    return json_response(told, code, {"ETag": etag(revision), **(headers or {})})


def etag(revision: int) -> str:
    return f'"{revision}"'


def precondition(request: web.Request) -> Precondition:
    """What ``If-Match`` and ``If-None-Match`` ask for."""
    wanted = _tags(request.headers.get("If-Match"), "If-Match")
    unwanted = _tags(request.headers.get("If-None-Match"), "If-None-Match")

    def check(revision: int) -> None:
        if wanted is not None and (not revision or not wanted & {"*", str(revision)}):
            raise Rejected("PRECONDITION_FAILED", f"If-Match does not hold: the revision is {revision or 'none'}")
        if unwanted is not None and revision and unwanted & {"*", str(revision)}:
            raise Rejected("PRECONDITION_FAILED", f"If-None-Match does not hold: the revision is {revision}")

    return check


def _tags(header: str | None, name: str) -> set[str] | None:
    if header is None:
        return None
    found = set()
    for each in header.split(","):
        tag = _TAG(each.strip())
        if tag is None and each.strip() != "*":
            raise Rejected("INVALID_REQUEST", f'{name}: {header!r} is no list of entity tags such as "17"')
        found.add(tag.group(1) if tag else "*")
    return found


def _bad_parameter(name: str, detail: str) -> Rejected:
    return Rejected("INVALID_REQUEST", f"query parameter {name}: {detail}", [Flaw("", f"query parameter {name}: {detail}")])
