"""The streams: what is made, what is left alone, and what is said where it cannot be."""

from pathlib import Path
from typing import Any

import pytest

from services.control import topology
from services.control.settings import Settings
from services.control.streams import SHARES, streams, update
from tas_mcp import subjects
from tas_mcp.errors import Misconfigured
from tas_mcp.messages import encode
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import TARGETS, Rig, event, running, target, until

ACCOUNT = """
jetstream { max_file_store: 1GB }
accounts {
  small {
    jetstream { max_mem: 1MB, max_file: 10MB }
    users: [{user: a, password: b}]
  }
}
no_auth_user: a
"""


async def trouble(rig: Rig, word: str) -> bool:
    ok, checks = rig.ops.readiness()
    return not ok and word in checks["streams"]["detail"]


def test_the_shares_leave_room() -> None:
    assert sum(SHARES.values()) < 0.96
    assert {each["name"] for each in streams(Settings())} == set(SHARES)


def test_an_update_keeps_what_is_not_ours() -> None:
    wanted = streams(Settings())[0]
    current = {**wanted, "compression": "s2", "metadata": {"theirs": "1"}, "storage": "memory"}
    assert update(current, wanted) is None
    changed = update({**current, "max_bytes": 1}, wanted)
    assert changed is not None
    assert (changed["compression"], changed["metadata"], changed["storage"]) == ("s2", {"theirs": "1"}, "memory")
    assert changed["max_bytes"] == wanted["max_bytes"]
    with pytest.raises(Misconfigured, match="retention"):
        update({**current, "retention": "workqueue"}, wanted)


async def test_everything_is_made_as_designed(rig: Rig) -> None:
    async def config(name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await rig.jetstream.stream_info(name))["config"]
        return found

    events = await config(subjects.EVENTS)
    assert (events["retention"], events["discard"], events["max_age"]) == ("limits", "new", 0)
    assert (events["duplicate_window"], events["allow_direct"]) == (120_000_000_000, True)
    deliveries = await config(subjects.DELIVERIES)
    assert (deliveries["retention"], deliveries["max_bytes"], deliveries["max_consumers"]) == ("workqueue", -1, 20_000)
    assert deliveries["allow_msg_schedules"] is True
    assert deliveries["metadata"][subjects.HIGH_WATER] == str(int(100 * 1024**2 * 0.25))
    bucket = await config("KV_tas_targets")
    assert (bucket["max_msgs_per_subject"], bucket["deny_delete"], bucket["allow_rollup_hdrs"]) == (64, True, True)
    audit = await config(subjects.AUDIT)
    assert (audit["deny_delete"], audit["deny_purge"]) == (True, True)
    process = (await rig.jetstream.consumer_info(subjects.EVENTS, subjects.PROCESS))["config"]
    assert (process["ack_policy"], process["max_ack_pending"], process["max_deliver"]) == ("explicit", 8000, -1)


async def test_a_second_start_changes_sizes_and_touches_no_message(nats: NatsServer) -> None:
    async with running(nats.url) as rig:
        await until(lambda: ready(rig))
        await rig.publisher.store(subjects.events("a.b"), encode(event()))
    async with running(nats.url, store_bytes=50 * 1024**2) as rig:
        await until(lambda: ready(rig))
        info = await rig.jetstream.stream_info(subjects.EVENTS)
        assert info["config"]["max_bytes"] == int(50 * 1024**2 * 0.4)
        assert info["state"]["messages"] == 1
        assert (await rig.jetstream.stream_info(subjects.DELIVERIES))["config"]["metadata"][subjects.HIGH_WATER] == "13107200"


async def test_it_waits_for_the_broker_and_says_so(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.control.topology.Topology.made.__defaults__", (0.05,))
    nats.stop()
    async with running(nats.url) as rig:
        await until(lambda: trouble(rig, "waits for the broker"))
        answer = await rig.call("POST", TARGETS, json=target())
        assert (answer.status, answer.body["code"]) == (503, "UNAVAILABLE")
        assert "Retry-After" in answer.headers
        nats.start()
        await until(lambda: ready(rig))
        assert (await rig.call("POST", TARGETS, json=target())).status == 201


async def test_an_old_server_is_named(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "SERVER_VERSION", (99, 0))
    async with running(nats.url) as rig:
        await until(lambda: trouble(rig, "99.0 or newer"))


async def test_an_account_that_is_too_small_is_named(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, ACCOUNT).start()
    try:
        async with running(server.url) as rig:
            await until(lambda: trouble(rig, "TAS_STORE_BYTES"))
        async with running(server.url, store_bytes=8_000_000) as rig:
            await until(lambda: ready(rig))
    finally:
        server.kill()


async def test_a_foreign_stream_of_the_same_name_is_named(nats: NatsServer) -> None:
    async with running(nats.url) as rig:
        await until(lambda: ready(rig))
        await rig.jetstream.call("STREAM.DELETE.REJECTED")
        foreign = {"name": "REJECTED", "subjects": ["x"], "retention": "workqueue", "storage": "file"}
        await rig.jetstream.call("STREAM.CREATE.REJECTED", foreign)
    async with running(nats.url) as rig:
        await until(lambda: trouble(rig, "retention workqueue"))


async def test_more_than_the_server_can_store_is_named(nats: NatsServer) -> None:
    async with running(nats.url, store_bytes=10**16) as rig:
        await until(lambda: trouble(rig, "insufficient storage"))
