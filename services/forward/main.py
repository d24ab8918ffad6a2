"""The forward service: its parts, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.forward.addresses import networks
from services.forward.dispatcher import Dispatcher
from services.forward.guard import Guard
from services.forward.lane import Lane
from services.forward.settings import Settings
from services.forward.statuses import Statuses
from services.forward.traces import Traces
from services.forward.trial import Trials
from tas_mcp import sealing, subjects
from tas_mcp.broker import JetStream
from tas_mcp.documents import Document, Follower
from tas_mcp.outcomes import Outcomes
from tas_mcp.presence import Announcer, Presences
from tas_mcp.service import Runtime, run
from tas_mcp.statuses import StatusBucket
from tas_mcp.targets import AnyTarget, Removed

STATUS_SECONDS = 3.0
"""How long the lanes wait for what is known of their targets (gone, down), before they go by what they find out themselves."""


@asynccontextmanager
async def forward(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    connection, publisher, ops = runtime.connection, runtime.publisher, runtime.ops
    outcomes = Outcomes(publisher, subjects.ATTEMPTS)
    guard = Guard(networks(settings.allowed_networks), settings.nats_url.split(","), peers=lambda: connection.peers)
    traces = Traces(runtime.tracer, errors=settings.trace_errors)
    statuses = Statuses(StatusBucket(JetStream(connection), publisher))
    presences = Presences(connection, runtime.name)
    announcer = Announcer(connection, runtime.name, lambda: 0)
    followed = Follower(connection, subjects.STATUS_BUCKET, statuses.use)

    def lane(target: AnyTarget | Removed) -> Lane:
        return Lane(connection, publisher, outcomes, statuses, guard, lambda: len(presences.live()), traces, target)

    keys = sealing.parse(settings.secret_key)
    dispatcher = Dispatcher(lane, keys)

    async def changed(documents: Sequence[Document]) -> None:
        await followed.first(STATUS_SECONDS)
        await dispatcher.use(documents)

    targets = Follower(connection, subjects.TARGETS_BUCKET, changed)
    ops.check("targets", lambda: targets.trouble, dispatcher.faults.note)
    ops.check("lanes", lambda: dispatcher.trouble)
    ops.check("outcomes", lambda: outcomes.trouble)
    async with (
        presences.running(),
        announcer.running(),
        outcomes.running(),
        statuses.running(),
        followed.running(),
        dispatcher.running(),
        targets.running(),
        Trials(connection, guard, keys).running(),
    ):
        yield


def main() -> None:
    run("forward", Settings, forward)
