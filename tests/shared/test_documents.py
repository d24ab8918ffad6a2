"""Documents on a real broker: everything once at the start, then every change, whatever happens to the link."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tas_mcp import documents as module
from tas_mcp import subjects, targets
from tas_mcp.documents import VALID, Document, Faults, Follower
from tas_mcp.errors import Rejected
from tas_mcp.targets import Removed
from tests.nats_server import NatsServer
from tests.shared.rig import Broker, linked, until

BUCKET = subjects.TARGETS_BUCKET


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.1)


class Seen:
    """What a follower told."""

    def __init__(self) -> None:
        self.calls: list[list[Document]] = []
        self.now: dict[str, bytes | None] = {}
        self.fail = 0

    async def changed(self, documents: Sequence[Document]) -> None:
        self.calls.append(list(documents))
        if self.fail:
            self.fail -= 1
            raise KeyError("a bug in whoever uses the documents")
        self.now.update({each.key: each.value for each in documents})


async def put(broker: Broker, key: str, value: bytes, **headers: str) -> int:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return (await broker.publisher.store(subjects.bucket_key(BUCKET, key), value, headers=named or None)).seq


@asynccontextmanager
async def following(broker: Broker) -> AsyncIterator[tuple[Follower, Seen]]:
    seen = Seen()
    async with Follower(broker.connection, BUCKET, seen.changed).running() as follower:
        yield follower, seen


async def test_everything_once_then_each_change(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        for number in range(1500):
            await broker.publisher.room()
            key = subjects.bucket_key(BUCKET, f"key {number}")
            broker.publisher.publish(key, b"%d" % number, lambda _: None)
        await until(lambda: not broker.publisher.pending)
        async with following(broker) as (follower, seen):
            await until(follower.loaded.is_set)
            assert follower.trouble == ""
            assert len(seen.calls) == 1
            assert [each.revision for each in seen.calls[0]] == list(range(1, 1501))
            assert seen.now == {f"key {number}": b"%d" % number for number in range(1500)}
            revision = await put(broker, "key 7", b"new")
            await until(lambda: seen.now["key 7"] == b"new")
            assert seen.calls[1] == [Document("key 7", revision, b"new")]


async def test_a_deleted_key_and_a_tombstone(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        await put(broker, "a", b"1")
        await put(broker, "b", b"1")
        await put(broker, "c", b"1")
        async with following(broker) as (follower, seen):
            await until(follower.loaded.is_set)
            await put(broker, "a", b"", KV_Operation="DEL")
            await until(lambda: seen.now["a"] is None)
            await put(broker, "b", b"", KV_Operation="PURGE", Nats_Rollup="sub")
            await until(lambda: seen.now["b"] is None)
            await put(broker, "c", targets.encode(Removed(id="c")))
            await until(lambda: seen.now["c"] == targets.encode(Removed(id="c")))
            await put(broker, "a", b"again")
            await until(lambda: seen.now["a"] == b"again")
        async with following(broker) as (follower, seen):
            await until(follower.loaded.is_set)
            assert seen.now == {"a": b"again", "b": None, "c": targets.encode(Removed(id="c"))}


async def test_a_change_during_an_outage_is_found_after_it(nats: NatsServer) -> None:
    async with linked(nats.url) as broker, linked(nats.url) as editor:
        await broker.lay_out()
        await put(editor, "a", b"1")
        async with following(broker) as (follower, seen):
            await until(follower.loaded.is_set)
            nats.kill()
            await until(lambda: not broker.connection.connected)
            nats.start()
            await until(lambda: editor.connection.connected)
            await put(editor, "a", b"2")
            await until(lambda: seen.now["a"] == b"2")
            await until(lambda: follower.trouble == "")
        assert [each.value for call in seen.calls for each in call] == [b"1", b"2"]


async def test_a_missing_bucket_is_named_and_waited_for(nats: NatsServer) -> None:
    async with linked(nats.url) as broker, following(broker) as (follower, seen):
        await until(lambda: "stream not found" in follower.trouble)
        assert "tas_targets" in follower.trouble
        assert not follower.loaded.is_set()
        await broker.lay_out()
        await until(follower.loaded.is_set)
        assert follower.trouble == ""
        assert seen.calls == [[]], "an empty bucket has no documents"
        await put(broker, "a", b"1")
        await until(lambda: seen.now == {"a": b"1"})


async def test_a_handler_that_fails_is_asked_again(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        await put(broker, "a", b"1")
        async with following(broker) as (follower, seen):
            seen.fail = 2
            await until(lambda: seen.now == {"a": b"1"})
            assert [[each.key for each in call] for call in seen.calls] == [["a"]] * 3
            await until(follower.loaded.is_set)
            await put(broker, "a", b"2")
            await until(lambda: seen.now == {"a": b"2"})


def test_faults_are_noted_until_they_are_mended() -> None:
    def valid(key: str) -> float:
        return VALID.labels(f"things/{key}")._value.get()  # type: ignore[no-any-return]

    faults = Faults("things")
    assert faults.note() == ""
    for number in range(7):
        faults.add(Document(f"k{number}", number, b""), Rejected("INVALID_THING", "no good"))
    faults.clear("fine")
    assert faults.note().startswith("not valid, the old ones stay in force: 'k0' revision 0: no good; 'k1'")
    assert faults.note().endswith("(and 2 more)")
    assert (valid("k0"), valid("fine")) == (0, 1)
    for number in range(7):
        faults.clear(f"k{number}")
    assert (faults.note(), valid("k0")) == ("", 1)
