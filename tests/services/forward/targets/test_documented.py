"""Every example in docs/targets.md of a type that does not speak HTTP delivers, to servers that are put in the place of its
hosts."""

import base64
import json
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nkeys
import pytest
from msgspec import Raw, structs

from services.forward.targets import open_sender
from tas_mcp import targets
from tas_mcp.messages import Event
from tests.certificates import Authority
from tests.contracts.target import event
from tests.kafka_broker import ADDRESS, consumed, needs_kafka
from tests.nats_server import NatsServer
from tests.services.forward.rig import OPEN
from tests.services.forward.targets.grpc_server import grpc_serving
from tests.services.forward.targets.test_argo import event_source
from tests.shared.rig import Broker, linked

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "targets.md").read_text()
EXAMPLES = {each["id"]: each for each in map(json.loads, re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))}
EVENT = structs.replace(event(), data=Raw(b'{"user_id": "usr-456"}'), metadata={"line": "7"})


async def deliver(name: str, endpoint: str, sent: Event = EVENT, **changes: Any) -> None:
    document = EXAMPLES[name]
    config = {**document["config"], **changes}
    found, _ = targets.check({**document, "endpoint": endpoint, "config": config})
    async with open_sender(found, OPEN) as sender:
        assert await sender.send(sent) == 200


async def test_grpc() -> None:
    async with grpc_serving() as server:
        await deliver("edge", f"grpc://127.0.0.1:{server.port}")
    assert server.metadata["authorization"] == "Bearer s3cr3t-t0k3n"
    assert server.seen[0].data == '{"user_id": "usr-456"}'


@pytest.mark.real
@needs_kafka
async def test_kafka() -> None:
    source = str(uuid.uuid4())
    await deliver("lake", f"kafka://{ADDRESS}", structs.replace(EVENT, source=source))
    [record] = await consumed(ADDRESS, f"events.{source}", 1)
    assert (record.key, record.value) == (b"usr-456", b'{"user_id": "usr-456"}')
    assert {"ce_id": b"e1", "team": b"orders"}.items() <= dict(record.headers).items()


def test_kafka_with_a_login() -> None:
    """Delivering so is tested in test_kafka.py."""
    found, _ = targets.check(EXAMPLES["bank"])
    assert isinstance(found, targets.KafkaTarget)
    assert found.delivery.sasl is not None


@pytest.fixture
async def broker(nats: NatsServer) -> AsyncIterator[Broker]:
    async with linked(nats.url) as found:
        await found.stream(subjects=["plant.>", "default.*.*"])
        yield found


async def test_nats(nats: NatsServer, broker: Broker) -> None:
    await deliver("plant", nats.url)
    [message] = await broker.messages("S")
    assert (message.subject, message.headers["X-Team"]) == ("plant.7.events", "plant")


async def test_nats_with_an_nkey_over_tls(tmp_path: Path) -> None:
    config = EXAMPLES["plant-2"]["config"]
    authority = Authority()
    pair = authority.issue(host=config["tls"]["server_name"])
    for name, text in (("cert", pair.certificate), ("key", pair.key)):
        (tmp_path / name).write_text(text)
    user = nkeys.from_seed(bytearray(config["nkey"].encode())).public_key.decode()
    tls = f"tls {{ cert_file: {tmp_path}/cert, key_file: {tmp_path}/key }}"
    server = NatsServer(tmp_path, f"{tls}\nauthorization {{ users: [ {{ nkey: {user} }} ] }}").start()
    try:
        tls_of = {**config["tls"], "ca": authority.certificate}
        await deliver("plant-2", f"tls://localhost:{server.port}", jetstream=False, tls=tls_of)
    finally:
        server.kill()


async def test_an_argo_event_bus(nats: NatsServer, broker: Broker) -> None:
    await deliver("bus", nats.url)
    [message] = await broker.messages("S")
    assert message.subject == "default.gateway.orders"
    assert base64.b64decode(json.loads(message.data)["data_base64"]) == b'{"user_id": "usr-456"}'


async def test_an_argo_event_source() -> None:
    async with event_source() as found:
        await deliver("argo", f"http://127.0.0.1:{found.port}/orders")
        assert found.seen == [("application/json", b'{"user_id": "usr-456"}')]
