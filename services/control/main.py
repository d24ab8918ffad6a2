"""The control service: its parts, put together."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.control import (
    api_audit,
    api_dead,
    api_keys,
    api_openapi,
    api_rejected,
    api_revisions,
    api_schemas,
    api_secrets,
    api_stats,
    api_targets,
    api_trials,
)
from services.control.access import guard
from services.control.audit import AuditLog, GoneTargets
from services.control.backtest import Backtests
from services.control.dead import DeadLetters
from services.control.editing import Editor
from services.control.history import History
from services.control.janitor import Janitor
from services.control.keys import Keys
from services.control.lanes import Lanes
from services.control.parked import Parked
from services.control.readings import Readings
from services.control.rejected import RejectedEvents
from services.control.removal import Removals
from services.control.requests import BODY_BYTES
from services.control.retention import Retention
from services.control.schemas import Schemas
from services.control.settings import Settings
from services.control.store import Store
from services.control.target_files import TargetFiles, locked
from services.control.topology import Topology
from tas_mcp import sealing, telemetry
from tas_mcp.auth import PRESENCE, on_loopback
from tas_mcp.broker import JetStream
from tas_mcp.presence import Presences
from tas_mcp.service import Runtime, run
from tas_mcp.statuses import StatusBucket

log = telemetry.logger("control")


@asynccontextmanager
async def control(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    connection, publisher = runtime.connection, runtime.publisher
    jetstream = JetStream(connection)
    topology = Topology(connection, settings)
    secret_keys = sealing.parse(settings.secret_key)
    if not secret_keys and not on_loopback(settings.host):
        log.warning("secrets of targets are stored as they are: there is no key to seal them with", setting=sealing.SETTING)
    store = Store(jetstream, publisher, secret_keys)
    statuses = StatusBucket(jetstream, publisher)
    presences, ingest = Presences(connection, "process"), Presences(connection, "ingest")
    entrances = Presences(connection, PRESENCE)
    lanes = Lanes(jetstream, store, settings)
    parked = Parked(jetstream, publisher)
    removals = Removals(jetstream, store, lanes, parked, presences, statuses)
    readings = Readings(jetstream, store, statuses)
    audit = runtime.audit
    editor = Editor(store, lanes, presences, removals, audit, locked(settings.targets_file))
    files = TargetFiles(settings.targets_file, topology, store, editor, os.environ)
    schemas = Schemas(jetstream, publisher, ingest, audit)
    keys = Keys(jetstream, publisher, entrances, audit)
    backtests = Backtests(jetstream, settings.backtest_events, settings.backtest_seconds)
    steps = {
        "retention": Retention(jetstream, settings.event_retention_seconds).purge,
        "lanes": lanes.mend,
        "parked": parked.sweep,
        "removals": removals.finish_all,
        "readings": readings.refresh,
        "gone": GoneTargets(jetstream, statuses, audit).record,
    }
    runtime.ops.check("streams", lambda: topology.trouble)
    if settings.targets_file:
        runtime.ops.check("targets_file", lambda: "", lambda: files.note)
    runtime.ops.check("keys", lambda: runtime.auth.trouble, lambda: runtime.auth.note)
    runtime.mount(
        guard(
            runtime.auth,
            [
                *api_targets.routes(topology, store, editor, readings, statuses, audit),
                *api_revisions.routes(topology, store, editor, History(jetstream, store)),
                *api_dead.routes(topology, DeadLetters(jetstream, publisher, store), audit),
                *api_schemas.routes(topology, schemas),
                *api_rejected.routes(topology, RejectedEvents(jetstream, publisher, schemas), audit),
                *api_keys.routes(topology, keys),
                *api_secrets.routes(topology, store, editor),
                *api_audit.routes(topology, AuditLog(jetstream)),
                *api_stats.routes(topology, readings),
                *api_trials.routes(topology, store, connection, backtests, statuses),
                *api_openapi.routes(),
            ],
        ),
        BODY_BYTES,
    )
    janitor = Janitor(topology, steps, settings.janitor_seconds)
    async with (
        topology.running(),
        presences.running(),
        ingest.running(),
        entrances.running(),
        janitor.running(),
        files.running(),
        runtime.auth.running(),
    ):
        yield


def main() -> None:
    run("control", Settings, control)
