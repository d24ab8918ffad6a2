"""What each service may do at the broker that we ship, and what not."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tas_mcp import subjects
from tas_mcp.broker import Connection, Publisher
from tas_mcp.errors import Unavailable
from tests.e2e.conftest import World, arrived, event
from tests.e2e.receiver import Reply, first
from tests.e2e.system import DEAD, EVENTS, SERVICES, STATS, TARGETS, System, running, until

KEYS = "/api/v1/keys"
ADMIN = "an-admin-key-of-at-least-32-characters"
INGEST, PROCESS, FORWARD, CONTROL = "ingest", "process", "forward", "control"
EVERYBODY = frozenset(SERVICES)

PUBLISH = {
    "tas.events.a.b": {INGEST, CONTROL},
    "tas.rejected.a.b": {INGEST},
    "tas.deliveries.t": {PROCESS, CONTROL},
    "tas.retries.t.1": {FORWARD, CONTROL},
    "tas.dead.t": {PROCESS, FORWARD},
    "tas.outcomes.routed": {PROCESS},
    "tas.outcomes.attempts": {FORWARD},
    "tas.notices.i.1.routed": {PROCESS, FORWARD},
    "tas.audit.targets": {CONTROL},
    "tas.audit.authentication": {INGEST, CONTROL},
    "$KV.tas_targets.t": {CONTROL},
    "$KV.tas_schemas.a": {CONTROL},
    "$KV.tas_keys.k": {CONTROL},
    "$KV.tas_status.t": {FORWARD, CONTROL},
    "$JS.ACK.EVENTS.process.1.1.1.1.1": {PROCESS},
    "$JS.ACK.DELIVERIES.fwd_t.1.1.1.1.1": {FORWARD},
    "$JS.API.CONSUMER.MSG.NEXT.EVENTS.process": {PROCESS},
    "$JS.API.CONSUMER.MSG.NEXT.DELIVERIES.fwd_t": {FORWARD},
    "$JS.API.DIRECT.GET.KV_tas_targets": {PROCESS, FORWARD, CONTROL},
    "$JS.API.DIRECT.GET.KV_tas_schemas": {INGEST, CONTROL},
    "$JS.API.DIRECT.GET.KV_tas_keys": {INGEST, CONTROL},
    "$JS.API.DIRECT.GET.EVENTS": {INGEST, CONTROL},
    "$JS.API.DIRECT.GET.DEAD": {CONTROL},
    "$JS.API.DIRECT.GET.AUDIT": {CONTROL},
    "$JS.API.DIRECT.GET.KV_tas_targets.$KV.tas_targets.t": set(),
    "$JS.API.STREAM.MSG.GET.KV_tas_targets": {CONTROL},
    "$JS.API.STREAM.MSG.GET.DEAD": {FORWARD, CONTROL},
    "$JS.API.STREAM.MSG.DELETE.DEAD": {CONTROL},
    "$JS.API.STREAM.MSG.DELETE.EVENTS": set(),
    "$JS.API.STREAM.MSG.DELETE.AUDIT": set(),
    "$JS.API.STREAM.CREATE.EVENTS": {CONTROL},
    "$JS.API.STREAM.DELETE.EVENTS": set(),
    "$JS.API.STREAM.PURGE.DELIVERIES": {CONTROL},
    "$JS.API.STREAM.PURGE.AUDIT": set(),
    "$JS.API.STREAM.PURGE.KV_tas_keys": set(),
    "$JS.API.STREAM.SNAPSHOT.KV_tas_targets": set(),
    "$JS.API.STREAM.RESTORE.OWN": set(),
    "$JS.API.CONSUMER.DURABLE.CREATE.DELIVERIES.fwd_t": {CONTROL},
    "$JS.API.CONSUMER.DURABLE.CREATE.KV_tas_targets.mine": set(),
    "$JS.API.CONSUMER.CREATE.EVENTS": set(),
    "$JS.API.CONSUMER.CREATE.EVENTS.mine.tas.events.>": set(),
    "$JS.API.CONSUMER.DELETE.DELIVERIES.fwd_t": {CONTROL},
    "$JS.API.CONSUMER.DELETE.EVENTS.process": set(),
    "tas.rpc.test.t": {CONTROL},
    "tas.live.ingest.i": {INGEST},
    "tas.live.process.p": {PROCESS},
    "tas.live.forward.f": {FORWARD},
    "$SYS.REQ.SERVER.PING": set(),
    "anything.else": set(),
    **{f"_INBOX_{name}.x.1": {FORWARD} if name == CONTROL else set() for name in SERVICES},
    "_INBOX.x.1": set(),
}
"""Who may publish there, and nobody else."""
SUBSCRIBE = {
    **{f"_INBOX_{name}.>": {name} for name in SERVICES},
    "_INBOX.>": set(),
    ">": set(),
    "tas.>": set(),
    "$KV.>": set(),
    "$JS.>": set(),
    "$SYS.>": set(),
    "tas.events.>": {INGEST},
    "tas.notices.>": {INGEST},
    "tas.deliveries.>": set(),
    "tas.dead.>": set(),
    "tas.audit.>": set(),
    "tas.rpc.test.*": {FORWARD},
    "$KV.tas_targets.>": {PROCESS, FORWARD},
    "$KV.tas_status.>": {PROCESS, FORWARD},
    "$KV.tas_schemas.>": {INGEST},
    "$KV.tas_keys.>": {INGEST, CONTROL},
}
"""Who may listen there, and nobody else."""


class Client:
    """One user, in the words of the protocol, so that the broker's refusals are seen as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def says(self, line: str) -> list[str]:
        """Send a line and wait until it was dealt with: the errors that it was answered with."""
        self._writer.write(f"{line}\r\nPING\r\n".encode())
        answers: list[str] = []
        while (answer := (await self._reader.readline()).decode().strip()) != "PONG":
            assert answer, f"the broker closed the connection: {answers}"
            answers.append(answer)
        return [answer for answer in answers if answer.startswith("-ERR")]


@asynccontextmanager
async def calling(system: System, user: str) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", system.nats_port)
    await reader.readline()
    login = {"user": user, "pass": system.passwords[user], "verbose": False, "headers": True}
    client = Client(reader, writer)
    try:
        assert await client.says(f"CONNECT {json.dumps(login)}") == []
        yield client
    finally:
        writer.close()


@asynccontextmanager
async def broker(folder: Path) -> AsyncIterator[System]:
    """The shipped broker alone, with nothing in it that could be hurt."""
    async with aiohttp.ClientSession() as session:
        system = System(folder, session, {})

        async def answers() -> bool:
            try:
                socket.create_connection(("127.0.0.1", system.nats_port), 1).close()
            except OSError:
                return False
            return True

        try:
            system.programs["nats"].start()
            await until(answers, 20, "the broker")
            yield system
        finally:
            system.close()


async def test_each_user_may_do_its_own_work_and_nothing_else(tmp_path: Path) -> None:
    found: dict[str, dict[str, set[str]]] = {"PUB": {}, "SUB": {}}
    wanted = {"PUB": PUBLISH, "SUB": SUBSCRIBE}
    async with broker(tmp_path) as system:
        for user in SERVICES:
            async with calling(system, user) as client:
                for verb, table in wanted.items():
                    ending = " 0\r\n" if verb == "PUB" else " 1\r\nUNSUB 1"
                    for subject in table:
                        allowed = found[verb].setdefault(subject, set())
                        if not await client.says(f"{verb} {subject}{ending}"):
                            allowed.add(user)
    assert found == wanted


async def test_nobody_gets_in_without_a_password(tmp_path: Path) -> None:
    async with broker(tmp_path) as system:
        system.passwords |= {"ingest": "wrong", "stranger": ""}
        for user in ("ingest", "stranger"):
            with pytest.raises(AssertionError, match="Authorization Violation"):
                async with calling(system, user):
                    pass


@pytest.mark.asyncio(loop_scope="module")
async def test_forward_cannot_forge_an_event(world: World) -> None:
    system = world.system

    async def stored() -> Any:
        return (await system.call("GET", STATS)).body["streams"]["EVENTS"]["messages"]

    before = await stored()
    url, password = f"nats://127.0.0.1:{system.nats_port}", system.passwords[FORWARD]
    connection = Connection([url], "forger", user=FORWARD, password=password, inbox_prefix="_INBOX_forward")
    publisher = Publisher(connection, deadline=1.0)
    async with connection.running(), publisher.running():
        await connection.ready()
        with pytest.raises(Unavailable):
            await publisher.store(subjects.events("forged.made"), b"{}")
    assert await stored() == before
    [violation] = system.violations
    assert 'Publish Violation - Subject "tas.events.forged.made"' in violation
    system.forgiven.append(violation)


@pytest.mark.asyncio(loop_scope="module")
async def test_every_kind_of_work_is_done_without_a_refusal(world: World) -> None:
    """Deliveries, retries, dead letters and their redrive, a target that is gone, a removal, a trial, a backtest, schemas and
    what they refuse, the audit log. What is refused by the broker fails the module at its end, too."""
    system = world.system
    retry = {"retry": {"schedule": ["200ms"]}}
    await system.put(world.target("work", config=retry))
    world.receiver.script("work", first(1, Reply(503)))
    await arrived(world, "work", await world.sent("work"))

    world.receiver.script("work", first(2, Reply(503)))
    failed = await world.sent("work")
    [letter] = await until(lambda: system.dead_letters("work"), what="the dead letter")
    assert (await system.call("POST", f"{DEAD}/{letter['id']}/redrive")).status == 200
    await arrived(world, "work", failed)
    tried = await system.call("POST", f"{TARGETS}/work/test", json={})
    assert (tried.status, tried.body["status"]) == (200, 200)

    await system.put(world.target("gone"))
    world.receiver.script("gone", first(1, Reply(410)))
    await world.sent("gone")

    async def is_gone() -> bool:
        return bool((await system.call("GET", f"{TARGETS}/gone")).body["status"]["state"] == "gone")

    await until(is_gone, what="the target being gone")
    assert (await system.call("POST", f"{TARGETS}/gone/enable")).status == 200
    await system.put(world.target("paused", paused=True))
    await world.sent("paused")
    assert (await system.change("DELETE", f"{TARGETS}/paused?queue=discard")).status == 200

    schema = "/api/v1/schemas/strict.made"
    assert (await system.call("PUT", schema, json={"schema": {"required": ["missing"]}})).status == 200

    async def refused() -> bool:
        return (await system.send(event("strict"))).status == 422

    await until(refused, what="the schema in force")
    rejected = "/api/v1/rejected?event_type=strict.made"

    async def kept() -> Any:
        return (await system.call("GET", rejected)).body["items"]

    [item, *_] = await until(kept, what="the refused event")
    assert (await system.call("PUT", schema, json={"schema": True})).status == 200
    assert (await system.call("POST", f"/api/v1/rejected/{item['id']}/resubmit")).status == 200

    assert (await system.call("POST", "/api/v1/rules:backtest", json={"target": world.target("work")})).status == 200
    assert (await system.call("GET", "/api/v1/audit/log")).body["items"]
    assert (await system.call("GET", f"{TARGETS}/work/revisions")).status == 200
    await system.drained()
    for name in SERVICES:
        assert "broker error" not in system.programs[name].tail(1_000_000), name


async def test_keys_and_the_live_tail_need_no_more(tmp_path: Path) -> None:
    async with running(tmp_path, TAS_AUTH="keys", TAS_ADMIN_KEY=ADMIN) as system:
        admin = {"X-API-Key": ADMIN}
        asked = {"name": "shop", "scopes": ["events:write", "events:read"]}
        made = await system.call("POST", KEYS, json=asked, headers=admin)
        assert made.status == 201, made.body

        async def sends() -> int:
            body, own = event("keys"), {"X-API-Key": made.body["key"]}
            return (await system.call("POST", system.ingest + EVENTS, json=body, headers=own)).status

        async def is_let_in() -> bool:
            return await sends() == 200

        async def is_refused() -> bool:
            return await sends() == 401

        await until(is_let_in, what="the key in force")
        async with aiohttp.ClientSession(headers={"X-API-Key": made.body["key"]}) as session:
            async with session.get(f"{system.ingest}{EVENTS}/stream?since=0") as stream:
                assert stream.status == 200, await stream.text()
                while b"keys.made" not in await asyncio.wait_for(stream.content.readline(), 60):
                    pass
        assert (await system.call("DELETE", f"{KEYS}/{made.body['id']}", headers=admin)).status == 200
        await until(is_refused, what="the revocation in force")
        assert system.violations == []
