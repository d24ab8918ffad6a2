"""Removing targets that are still owed something."""

from tas_mcp import subjects, targets
from tests.services.control.rig import TARGETS, Rig, target, until

ORDERS = f"{TARGETS}/orders"
QUEUE = subjects.deliveries("orders")
PARKED = subjects.all_retries("orders")


async def tombstone(rig: Rig) -> targets.Stored | None:
    [message] = await rig.jetstream.last_of("KV_tas_targets", [subjects.bucket_key("tas_targets", "orders")])
    return targets.decode(message.data) if message.data else None


async def gone(rig: Rig) -> bool:
    consumers = [info["name"] for info in await rig.jetstream.consumers(subjects.DELIVERIES)]
    return await tombstone(rig) is None and "fwd_orders" not in consumers


async def test_what_is_queued_stays_for_forward_and_then_the_target_goes(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    await rig.deliver("orders", 1)
    await rig.park("orders", 2, 3600)
    status = (await rig.call("GET", ORDERS)).body["status"]
    assert (status["pending"], status["parked"]) == (1, 1)
    assert status["oldest_pending_seconds"] >= 0

    assert (await rig.call("DELETE", ORDERS)).status == 200
    assert await tombstone(rig) == targets.Removed(id="orders")
    assert (await rig.call("GET", ORDERS)).status == 404
    assert (await rig.call("GET", TARGETS)).body == {}
    assert (await rig.call("DELETE", ORDERS)).status == 404
    for method, path in (("POST", TARGETS), ("PUT", ORDERS)):
        refused = await rig.call(method, path, json=target())
        assert (refused.status, refused.body["code"]) == (409, "CONFLICT")

    async def unparked() -> bool:
        return await rig.stored(subjects.DELIVERIES, QUEUE) == 2 and not await rig.stored(subjects.DELIVERIES, PARKED)

    await until(unparked)
    assert await tombstone(rig) is not None
    async with rig.pulling(subjects.DELIVERIES, "fwd_orders") as found:

        async def both() -> bool:
            return len(found) == 2

        await until(both)
        while found:
            found.pop().ack()
    await until(lambda: gone(rig))
    assert (await rig.call("POST", TARGETS, json=target())).status == 201


async def test_discard_drops_what_is_queued_at_once(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    await rig.call("POST", TARGETS, json=target("other"))
    for seq in range(5):
        await rig.deliver("orders", seq)
        await rig.park("orders", 10 + seq, 3600)
    await rig.deliver("other")
    assert (await rig.call("DELETE", f"{ORDERS}?queue=discard")).status == 200
    assert await gone(rig)
    assert await rig.stored(subjects.DELIVERIES, ">") == 1
    assert (await rig.call("POST", TARGETS, json=target())).status == 201


async def test_a_removal_under_way_can_be_told_to_discard(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    await rig.deliver("orders")
    await rig.call("DELETE", ORDERS)
    assert await tombstone(rig) is not None
    assert (await rig.call("DELETE", f"{ORDERS}?queue=discard")).status == 200
    assert await gone(rig)


async def test_nothing_goes_while_a_process_replica_may_still_route_to_it(rig: Rig) -> None:
    rig.announce(10_000)
    await rig.call("POST", TARGETS, json=target())
    rig.announce(0)
    deleted = await rig.call("DELETE", ORDERS)
    assert deleted.body["in_force"] is False
    assert await tombstone(rig) is not None
    rig.announce(10_000)
    await until(lambda: gone(rig))
