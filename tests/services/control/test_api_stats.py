"""The state of the whole over HTTP."""

from tas_mcp import subjects
from tas_mcp.messages import encode
from tests.services.control.rig import TARGETS, Rig, event, target


async def test_stats(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    await rig.publisher.store(subjects.events("a.b"), encode(event()))
    await rig.deliver("orders")
    await rig.park("orders", 2, 3600)
    await rig.bury("orders", 3)
    found = (await rig.call("GET", "/api/v1/stats")).body
    assert found["accepted"] == 1
    assert found["process"] == {"pending": 1, "ack_pending": 0}
    assert found["targets"] == {"orders": {"pending": 1, "parked": 1, "dead": 1}}
    events = found["streams"]["EVENTS"]
    assert (events["messages"], events["first_seq"], events["last_seq"]) == (1, 1, 1)
    assert events["max_bytes"] == int(100 * 1024**2 * 0.4)
    assert 0 < events["bytes"] < 1000
    assert found["streams"]["DELIVERIES"]["max_bytes"] == int(100 * 1024**2 * 0.25)
