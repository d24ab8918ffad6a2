"""Trying things out over HTTP: a rule, all targets, one target's endpoint."""

from datetime import UTC, datetime
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct, field

from services.control import trials
from services.control.api_targets import ONE
from services.control.backtest import Backtests, Span, Tally
from services.control.drafts import draft
from services.control.editing import missing
from services.control.requests import body_of, caller_of, guarded
from services.control.samples import DEFAULT, sample
from services.control.store import Store
from services.control.topology import Topology
from services.control.trials import Explainer
from tas_mcp.broker import Connection
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.http import json_response
from tas_mcp.routing import RuleSet, compile_rules
from tas_mcp.statuses import StatusBucket
from tas_mcp.targets import AnyTarget


class Sample(Struct, forbid_unknown_fields=True):
    """The body of a test: the event to send; without one it is made up."""

    event: Any = None


class RuleTest(Struct, forbid_unknown_fields=True):
    """The body of ``rules:test``: an event, and either a rule or a target."""

    event: Any
    rule: Any = None
    target: Any = None


class Backtest(Struct, forbid_unknown_fields=True):
    """The body of ``rules:backtest``: a rule or a target, and the stored events to try it on."""

    rule: Any = None
    target: Any = None
    last: Annotated[int, Meta(ge=1)] | None = None
    since: int | str | None = field(default=None, name="from")
    before: int | str | None = field(default=None, name="to")


class Explain(Struct, forbid_unknown_fields=True):
    """The body of ``events:explain``."""

    event: Any


def routes(
    topology: Topology, store: Store, connection: Connection, backtests: Backtests, statuses: StatusBucket
) -> list[web.RouteDef]:
    api = _Api(store, connection, backtests, statuses)
    return [
        web.post(ONE + "/test", guarded(topology, api.send)),
        web.post("/api/v1/rules:test", guarded(topology, api.judge)),
        web.post("/api/v1/rules:backtest", guarded(topology, api.backtest)),
        web.post("/api/v1/events:explain", guarded(topology, api.explain)),
    ]


class _Api:
    def __init__(self, store: Store, connection: Connection, backtests: Backtests, statuses: StatusBucket) -> None:
        self._store = store
        self._connection = connection
        self._backtests = backtests
        self._explainer = Explainer(store, statuses)

    async def send(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, Sample) if request.body_exists else Sample()
        event = sample(DEFAULT if asked.event is None else asked.event)
        entry = await self._store.get(request.match_info["id"])
        if not entry.exists or entry.removed:
            raise missing(request.match_info["id"])
        if entry.target is None:
            raise Rejected("CONFLICT", f"the target cannot be read, so not be tried: {entry.flaw}")
        return json_response(await trials.send(self._connection, entry.target, event))

    async def judge(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, RuleTest)
        event = sample(asked.event)
        return json_response(trials.judged((await self._draft(asked))[0], event))

    async def backtest(self, request: web.Request) -> web.StreamResponse:
        if caller_of(request).restricted:
            raise Rejected("FORBIDDEN", f"{caller_of(request).name} may not see all events: a backtest needs a key that may")
        asked = await body_of(request, Backtest)
        span = self._span(asked)
        tried, current = await self._draft(asked)
        running = compile_rules(current.rules or ()) if current is not None and current.enabled else None
        tally = Tally(tried, running)
        complete = await self._backtests.run(tally, span, lambda: request.transport is None or request.transport.is_closing())
        return json_response({**tally.told(), "complete": complete})

    def _span(self, asked: Backtest) -> Span:
        limit = self._backtests.limit
        since, before = _time("from", asked.since), _time("to", asked.before)
        if asked.last is not None and (since or before):
            raise _invalid("/last", "excludes `from` and `to`")
        if asked.last is not None and asked.last > limit:
            raise _invalid("/last", f"is more than {limit}, the limit (TAS_BACKTEST_EVENTS)")
        return Span(None, since, before) if since or before else Span(asked.last or limit)

    async def _draft(self, asked: RuleTest | Backtest) -> tuple[RuleSet, AnyTarget | None]:
        """What is tried, and the target that is there now under its id."""
        target_id = asked.target.get("id") if isinstance(asked.target, dict) else None
        current = (await self._store.get(target_id)).target if isinstance(target_id, str) else None
        return draft(asked.rule, asked.target, current), current

    async def explain(self, request: web.Request) -> web.StreamResponse:
        return json_response(await self._explainer.explain(sample((await body_of(request, Explain)).event)))


def _time(name: str, given: int | str | None) -> datetime | None:
    """A time in Unix seconds or RFC 3339."""
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given) if isinstance(given, str) else datetime.fromtimestamp(given, UTC)
    except (ValueError, OverflowError, OSError):
        found = None
    if found is None or found.tzinfo is None:
        raise _invalid(f"/{name}", f"{given!r:.64} is neither Unix seconds nor an RFC 3339 time")
    return found


def _invalid(pointer: str, detail: str) -> Rejected:
    return Rejected("INVALID_REQUEST", f"{pointer}: {detail}", [Flaw(pointer, detail)])
