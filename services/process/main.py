"""The process service: its parts, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.process.pipeline import Pipeline
from services.process.room import Room
from services.process.rulebook import Rules
from services.process.settings import Settings
from tas_mcp import subjects
from tas_mcp.broker import JetStream, Publisher, Puller
from tas_mcp.documents import Document, Follower
from tas_mcp.outcomes import Outcomes
from tas_mcp.presence import Announcer
from tas_mcp.service import Runtime, run


@asynccontextmanager
async def process(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    connection, ops = runtime.connection, runtime.ops
    rules = Rules()
    announcer = Announcer(connection, runtime.name, lambda: rules.revision)

    async def changed(documents: Sequence[Document]) -> None:
        await rules.use(documents)
        announcer.announce()

    targets = Follower(connection, subjects.TARGETS_BUCKET, changed)
    statuses = Follower(connection, subjects.STATUS_BUCKET, rules.use_statuses)
    publisher = Publisher(connection, window=4 * settings.in_flight)
    outcomes = Outcomes(publisher, subjects.ROUTED)
    room = Room(JetStream(connection), rules, lambda high: puller.pause() if high else puller.resume())
    pipeline = Pipeline(publisher, outcomes, rules, room.full, runtime.tracer)
    puller = Puller(connection, subjects.EVENTS, subjects.PROCESS, pipeline.handle, limit=settings.in_flight)
    ops.check("targets", lambda: targets.trouble, rules.faults.note)
    ops.check("events", lambda: puller.trouble)
    ops.check("outcomes", lambda: outcomes.trouble)
    ops.check("room", lambda: room.trouble)
    async with statuses.running(), targets.running(), publisher.running(), outcomes.running(), announcer.running():
        puller.after(targets.loaded)
        async with room.running(), puller.running():
            yield


def main() -> None:
    run("process", Settings, process)
