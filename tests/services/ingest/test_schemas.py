"""Schemas at ingest, over real sockets and a real broker, on both lanes."""

import json
from typing import Any

import pytest

from services.ingest import main
from services.ingest.schemas import UNRECORDED, VIOLATIONS, Schemas
from tas_mcp import subjects
from tas_mcp.broker import Publisher
from tas_mcp.broker.publisher import Settle
from tas_mcp.documents import Document
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.messages import Event, Presence, RefusedEvent, decode_presence, decode_refused
from tests.nats_server import NatsServer
from tests.services.ingest.rig import BATCH, GOOD, Rig, serving
from tests.shared.rig import linked, until

NUMBER = {"type": "object", "required": ["n"], "properties": {"n": {"type": "number"}}}


def event(data: Any, event_type: str = "order.created", **members: Any) -> bytes:
    return json.dumps({"event_type": event_type, "source": "shop", "data": data, **members}).encode()


async def save(rig: Rig, name: str, document: Any) -> int:
    """What control does."""
    value = document if isinstance(document, bytes) else json.dumps(document).encode()
    return (await rig.broker.publisher.store(subjects.bucket_key(subjects.SCHEMAS_BUCKET, name), value)).seq


async def enforce(rig: Rig, name: str, schema: Any, mode: str = "enforce") -> int:
    """Save a schema, and wait until the service says that it has it in force."""
    heard: list[Presence] = []
    hearing = rig.broker.connection.subscribed(subjects.ALL_PRESENCE, lambda message: heard.append(decode_presence(message.data)))
    async with hearing:
        revision = await save(rig, name, {"schema": schema, "mode": mode})
        await until(lambda: any(each.revision >= revision for each in heard if each.service == "ingest"))
    return revision


async def records(rig: Rig, event_type: str = "order.created") -> list[RefusedEvent]:
    found = await rig.broker.messages(subjects.REJECTED, subjects.rejected(event_type))
    return [decode_refused(message.data) for message in found]


async def test_what_breaks_its_schema_is_refused_and_kept_for_people(rig: Rig) -> None:
    revision = await enforce(rig, "order.*", NUMBER)
    found = await rig.post(event({"n": "x"}, event_id="e1", metadata={"a": "b"}))
    assert (found.status, found.body["code"]) == (422, "SCHEMA_VIOLATION")
    assert found.body["errors"] == [{"pointer": "/data/n", "detail": '"x" is not of type "number"'}]
    assert "order.*" in found.body["detail"]
    assert found.headers["content-type"] == "application/problem+json"
    assert (await rig.post(event({"n": 1}))).status == 200
    assert (await rig.post(event({"n": "x"}, "invoice.created"))).status == 200
    assert (await rig.post(GOOD)).status == 200
    assert [each.event_type for each in await rig.stored()] == ["order.created", "invoice.created", "good"]

    async def kept() -> list[RefusedEvent]:
        return await records(rig)

    [record] = await until(kept)
    assert (record.schema, record.revision) == ("order.*", revision)
    assert [(error.pointer, error.detail) for error in record.errors] == [("/data/n", '"x" is not of type "number"')]
    assert json.loads(bytes(record.event))["data"] == {"n": "x"}
    assert json.loads(bytes(record.event))["metadata"] == {"a": "b"}
    assert record.at > 1e9


async def test_the_classic_form_is_judged_by_the_object_that_it_holds(rig: Rig) -> None:
    await enforce(rig, "order.created", NUMBER)
    assert (await rig.post(event('{"n": 1}'))).status == 200
    found = await rig.post(event('{"n": "x"}'))
    assert found.body["errors"][0]["pointer"] == "/data/n"
    assert (await rig.post(event('{"n": '))).body["errors"][0]["pointer"] == "/data", "a string that only looks like an object"
    assert (await rig.post(b'{"event_type":"order.created","source":"shop"}')).status == 422, "no data is null"


async def test_in_a_batch_only_the_entry_is_refused(rig: Rig) -> None:
    await enforce(rig, "order.created", NUMBER)
    found = await rig.post(b"[%s,%s,%s]" % (event({"n": 1}), event({}), GOOD), BATCH)
    assert (found.status, found.body["accepted"], found.body["rejected"]) == (200, 2, 1)
    error = found.body["results"][1]["error"]
    assert (error["code"], error["pointer"]) == ("SCHEMA_VIOLATION", "/data")
    assert len(await rig.stored()) == 2


async def test_a_schema_that_warns_accepts_and_counts(rig: Rig) -> None:
    await enforce(rig, "order.created", NUMBER, "warn")
    before = VIOLATIONS.labels("warn").value
    assert (await rig.post(event({}))).status == 200
    assert (await rig.post(event({"n": 1}))).status == 200
    assert VIOLATIONS.labels("warn").value == before + 1
    assert len(await rig.stored()) == 2
    assert await records(rig) == []


async def test_a_deleted_schema_holds_nobody_up(rig: Rig) -> None:
    await enforce(rig, "order.created", NUMBER)
    key = subjects.bucket_key(subjects.SCHEMAS_BUCKET, "order.created")
    await rig.broker.publisher.store(key, b"", headers={"KV-Operation": "DEL"})

    async def accepted() -> bool:
        return (await rig.post(event({}))).status == 200

    await until(accepted)


async def test_an_invalid_document_leaves_the_old_one_in_force_and_is_seen(rig: Rig) -> None:
    await enforce(rig, "order.created", NUMBER)
    revision = await save(rig, "order.created", b'{"schema": {"type": "nope"}}')

    async def detail() -> str:
        async with rig.session.get("/ready") as answer:
            check = (await answer.json())["checks"]["schemas"]
            assert check["status"] == "up"
            return str(check["detail"])

    async def noted() -> bool:
        return f"'order.created' revision {revision}" in await detail()

    await until(noted)
    assert (await rig.post(event({}))).status == 422
    await save(rig, "order.created", {"schema": True})

    async def mended() -> bool:
        return await detail() == ""

    await until(mended)
    assert (await rig.post(event({}))).status == 200


async def test_nothing_is_accepted_before_the_schemas_were_read(
    nats: NatsServer, express: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "LOAD_SECONDS", 0.1)
    bucket = subjects.bucket_stream(subjects.SCHEMAS_BUCKET)
    async with linked(nats.url) as broker:
        await broker.lay_out()
        config = (await broker.jetstream.stream_info(bucket))["config"]
        await broker.jetstream.call(f"STREAM.DELETE.{bucket}")
        async with serving(nats.url, lay_out=False, express=express) as rig:
            found = await rig.post(GOOD)
            assert (found.status, found.body["code"]) == (503, "UNAVAILABLE")
            assert int(found.headers["retry-after"]) >= 1
            async with rig.session.get("/ready") as answer:
                assert (await answer.json())["checks"]["schemas"]["status"] == "down"
            await broker.jetstream.call(f"STREAM.CREATE.{bucket}", config)

            async def accepted() -> bool:
                return (await rig.post(GOOD)).status == 200

            await until(accepted)
            assert len(await rig.stored()) == 1


class Full(Publisher):
    """A publisher that takes nothing."""

    def __init__(self) -> None: ...

    def publish(
        self, subject: str, payload: bytes, settle: Settle, *, msg_id: str = "", headers: dict[str, str] | None = None
    ) -> None:
        raise Unavailable("full")


def refusing(mode: str = "enforce") -> Schemas:
    found = Schemas(Full())
    found.use([Document("a", 1, json.dumps({"schema": False, "mode": mode}).encode())])
    return found


MADE = Event(event_id="e", event_type="a", source="s", timestamp=1, accepted_at=1)


def test_a_record_that_cannot_be_kept_changes_nothing() -> None:
    before = UNRECORDED.labels().value
    with pytest.raises(Rejected, match="by the schema 'a'"):
        refusing().check(MADE, None)
    assert UNRECORDED.labels().value == before + 1


def test_without_schemas_an_event_costs_one_look() -> None:
    found = Schemas(Full())
    assert (found.active, found.revision) == (True, 0), "nothing is known yet"
    found.use([])
    assert (found.active, found.revision) == (False, 0)
    found.use([Document("a", 3, b'{"schema": true}')])
    assert (found.active, found.revision) == (True, 3)
    found.use([Document("a", 4, None)])
    assert (found.active, found.revision) == (False, 4)


def test_warnings_do_not_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    found = refusing("warn")
    for _ in range(100):
        found.check(MADE, None)
    assert capsys.readouterr().out.count("events break a schema") == 1
