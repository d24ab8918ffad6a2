"""The forward service: its parts, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.forward.addresses import networks
from services.forward.dispatcher import Dispatcher
from services.forward.guard import Guard
from services.forward.settings import Settings
from tas_mcp import subjects
from tas_mcp.documents import Follower
from tas_mcp.outcomes import Outcomes
from tas_mcp.service import Runtime, run


@asynccontextmanager
async def forward(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    connection, publisher, ops = runtime.connection, runtime.publisher, runtime.ops
    outcomes = Outcomes(publisher, subjects.ATTEMPTS)
    guard = Guard(networks(settings.allowed_networks), settings.nats_url.split(","))
    dispatcher = Dispatcher(connection, publisher, outcomes, guard)
    targets = Follower(connection, subjects.TARGETS_BUCKET, dispatcher.use)
    ops.check("targets", lambda: targets.trouble)
    ops.check("lanes", lambda: dispatcher.trouble)
    ops.check("outcomes", lambda: outcomes.trouble)
    async with outcomes.running(), dispatcher.running(), targets.running():
        yield


def main() -> None:
    run("forward", Settings, forward)
