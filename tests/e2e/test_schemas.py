"""Schemas over the whole way: saved by control, in force on every ingest replica, and what was refused accepted after a fix."""

import time
from contextlib import AsyncExitStack
from typing import Any

from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import REJECTED, SCHEMAS, running
from tests.services.ingest.rig import serving
from tests.shared.rig import until

EVENT = b'{"event_type":"order.created","source":"shop","event_id":"e1","data":{"n":"1"}}'
SCHEMA = f"{SCHEMAS}/order.*"


def number(kind: str) -> dict[str, Any]:
    return {"schema": {"properties": {"n": {"type": kind}}}}


async def test_a_change_is_in_force_on_every_ingest_replica_when_it_is_answered(nats: NatsServer) -> None:
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(running(nats.url))
        await until(lambda: ready(control))
        replicas = [await stack.enter_async_context(serving(nats.url, lay_out=False)) for _ in range(2)]

        async def answers() -> list[int]:
            return [(await replica.post(EVENT)).status for replica in replicas]

        async def refused() -> bool:
            return await answers() == [422, 422]

        await control.call("PUT", SCHEMA, json=number("number"))
        await until(refused)
        seconds = []
        for kind, status in [("string", 200), ("number", 422)] * 4:
            began = time.monotonic()
            saved = await control.call("PUT", SCHEMA, json=number(kind))
            seconds.append(time.monotonic() - began)
            assert saved.status == 200
            if "in_force" not in saved.body:  # else the machine had something else to do for a whole second
                assert await answers() == [status, status]
        assert min(seconds) < 1, "an answer only ever came because it waited no longer"


async def test_a_refused_event_is_accepted_after_a_fix(nats: NatsServer) -> None:
    async with running(nats.url) as control:
        await until(lambda: ready(control))
        async with serving(nats.url, lay_out=False) as ingest:
            await control.call("PUT", SCHEMA, json=number("number"))
            assert (await ingest.post(EVENT)).status == 422

            async def kept() -> Any:
                return (await control.call("GET", f"{REJECTED}?event_type=order.created")).body["items"]

            [item] = await until(kept)
            assert (item["event_id"], item["schema"], item["errors"][0]["pointer"]) == ("e1", "order.*", "/data/n")
            assert (await control.call("POST", f"{REJECTED}/{item['id']}/resubmit")).status == 422
            await control.call("PUT", SCHEMA, json=number("string"))
            assert (await control.call("POST", f"{REJECTED}/{item['id']}/resubmit")).status == 200
            assert (await ingest.post(EVENT)).body["duplicate"] is True, "it is the same event"
            assert [bytes(event.data) for event in await ingest.stored()] == [b'{"n":"1"}']
            assert await ingest.broker.messages("REJECTED") == []
