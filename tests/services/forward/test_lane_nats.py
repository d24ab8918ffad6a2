"""Lanes to NATS: all the way, and never back into our own broker."""

import pytest

from tests.nats_server import NatsServer
from tests.services.forward.rig import Rig, forwarding
from tests.shared.rig import linked, until


async def test_another_nats(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = NatsServer(tmp_path_factory.mktemp("other")).start()
    try:
        async with linked(server.url) as other, forwarding(rig):
            await other.stream()
            await rig.save("plant", type="nats", endpoint=server.url, config={"subject": "S.events"})
            await rig.owe("plant", 1, 2, 3)
            await until(lambda: rig.settled("plant"))
            assert len(await other.messages("S")) == 3
    finally:
        server.kill()


async def test_the_text_that_a_rule_s_template_wrote_arrives(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = NatsServer(tmp_path_factory.mktemp("other")).start()
    try:
        async with linked(server.url) as other, forwarding(rig):
            await other.stream()
            rules = [{"id": "r", "transform": {"template": "Order {{ event.event_id }}"}}]
            config = {"subject": "S.events", "batch_size": 10}
            await rig.save("plant", type="nats", endpoint=server.url, config=config, rules=rules)
            await rig.owe("plant", 1, body="Order e1", content_type="text/plain")
            await rig.owe("plant", 2)
            await until(lambda: rig.settled("plant"))
            found = {message.headers["content-type"]: message.data for message in await other.messages("S")}
        assert found["text/plain"] == b"Order e1"
        assert b'"event_id":"e2"' in found["application/json"]
    finally:
        server.kill()


async def test_our_own_broker_is_no_target(rig: Rig) -> None:
    async with forwarding(rig):
        await rig.save("loop", type="nats", endpoint=rig.url, config={"subject": "tas.events.x", "retry": {"schedule": []}})
        await rig.owe("loop", 1)
        await until(lambda: rig.dead("loop"))
    [letter] = await rig.dead("loop")
    assert "own broker" in letter.detail
