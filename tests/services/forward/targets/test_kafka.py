"""The Kafka sender against a real broker."""

import asyncio
import socket
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

from services.forward.addresses import networks
from services.forward.guard import Guard
from services.forward.targets import open_sender
from services.forward.targets.kafka import Kafka, open_kafka
from services.forward.verdict import Failed, Refused
from tas_mcp import targets
from tas_mcp.messages import webhook_id
from tests.certificates import Authority
from tests.contracts.target import event
from tests.kafka_broker import ADDRESS, KafkaBroker, NoKafka, consumed, needs_kafka
from tests.ports import free_port
from tests.services.forward.rig import OPEN

pytestmark = [pytest.mark.real, needs_kafka]


def document(topic: str, address: str = ADDRESS, **config: Any) -> dict[str, Any]:
    return {"id": "t", "type": "kafka", "endpoint": f"kafka://{address}", "config": {"topic": topic, "timeout": "10s", **config}}


def target(topic: str, address: str = ADDRESS, **config: Any) -> targets.KafkaTarget:
    found, _ = targets.check(document(topic, address, **config))
    assert isinstance(found, targets.KafkaTarget)
    return found


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4()}"


async def record(topic: str, **config: Any) -> Any:
    """The record that one event becomes."""
    async with open_sender(target(topic, **config), OPEN) as sender:
        assert await sender.send(event()) == 200
    [found] = await consumed(ADDRESS, topic, 1)
    return found


async def test_a_record_of_the_tas_format(topic: str) -> None:
    found = await record(topic, headers={"team": "blue"})
    assert found.key == b"e1"
    assert b'"event_id":"e1"' in found.value
    assert dict(found.headers) == {
        "content-type": b"application/json",
        "webhook-id": webhook_id(event()).encode(),
        "team": b"blue",
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [("{{ event.event_type }}", b"user.created"), ("{{event.data.b}}-{{event.source}}", b"1-auth"), ("all", b"all"), ("", None)],
)
async def test_keys(topic: str, key: str, expected: bytes | None) -> None:
    assert (await record(topic, key=key, format="data")).key == expected


@pytest.mark.parametrize("mode", ["cloudevents", "cloudevents-binary"])
async def test_the_reference_sdk_reads_both_forms_of_a_cloudevent(topic: str, mode: str) -> None:
    found = await record(topic, format=mode)
    read = from_kafka_event(KafkaMessage(headers=dict(found.headers), key=found.key, value=found.value))
    assert (read.get_id(), read.get_source(), read.get_type()) == ("e1", "auth", "user.created")
    assert read.get_data() == {"b": 1, "a": [1.0, "é"]}
    assert read.get_extension("region") == "eu"


async def test_the_topic_may_be_a_template(topic: str) -> None:
    async with open_kafka(target(topic + "-{{ event.metadata.region }}{{ event.data.suffix }}"), OPEN) as sender:
        bad = event(2, b'{"suffix": "a b"}')
        sent, refused = await sender.send_batch([event(1), bad])
        assert sent == 200
        assert isinstance(refused, Refused)
        assert "config.topic" in refused.detail
        with pytest.raises(Refused):
            await sender.send(bad)
    assert len(await consumed(ADDRESS, f"{topic}-eu", 1)) == 1


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compression(topic: str, compression: str) -> None:
    assert (await record(topic, compression=compression)).value.startswith(b"{")


async def test_a_record_that_the_broker_finds_too_large_is_refused_alone(topic: str) -> None:
    async with open_kafka(target(topic), OPEN) as sender:
        large = event(1, b'"' + b"x" * 2_000_000 + b'"')
        with pytest.raises(Refused) as caught:
            await sender.send(large)
        assert caught.value.status == 413
        outcomes = await sender.send_batch([large, event(2, b'"' + b"x" * 600_000 + b'"')])
        assert isinstance(outcomes[0], Refused)
        assert outcomes[1] == 200


async def test_a_sender_whose_attempt_was_given_up_begins_anew(topic: str) -> None:
    async with open_kafka(target(topic), OPEN) as sender:
        await sender.send(event(1))
        given_up = asyncio.create_task(sender.send(event(2)))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert await sender.send(event(3)) == 200


async def test_the_text_of_a_template_goes_as_it_stands(topic: str) -> None:
    async with open_kafka(target(topic), OPEN) as sender:
        assert await sender.send_text(event(), "Grüße", "text/plain; charset=utf-8") == 200
    [found] = await consumed(ADDRESS, topic, 1)
    assert (found.key, found.value) == (b"e1", "Grüße".encode())
    assert dict(found.headers)["content-type"] == b"text/plain; charset=utf-8"


async def test_the_guard_is_asked_for_the_brokers_named_and_for_those_that_they_name(topic: str) -> None:
    async with open_sender(target(topic), Guard()) as sender:
        with pytest.raises(Refused, match="loopback"):
            await sender.send(event())

    async def lookup(host: str, port: int) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) < 2 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    asked: list[str] = []
    async with open_sender(target(topic), Guard(networks("127.0.0.1"), lookup=lookup)) as sender:
        with pytest.raises(Refused, match="private"):
            await sender.send(event())
    assert len(asked) == 2


def resolving(answers: Iterable[str]) -> Guard:
    """A guard that lets loopback through; for each question of it a name has the next address."""
    found = iter(answers)

    async def lookup(host: str, port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(found), port))]

    return Guard(networks("127.0.0.1"), lookup=lookup)


async def test_the_address_that_the_guard_gave_is_connected_to(topic: str) -> None:
    port = ADDRESS.rpartition(":")[2]
    async with open_sender(target(topic, f"only-the-guard-knows.test:{port}"), resolving(repeat("127.0.0.1"))) as sender:
        assert await sender.send(event()) == 200


async def test_a_broker_is_looked_at_again_before_each_connection(topic: str) -> None:
    """Asked for the one named, for the one that it names, and when that is connected to."""
    answers = ["127.0.0.1", "127.0.0.1", *["10.0.0.1"] * 100]
    async with open_sender(target(topic, timeout="3s"), resolving(answers)) as sender:
        with pytest.raises((Failed, Refused, TimeoutError)):
            async with asyncio.timeout(5):
                await sender.send(event())


async def test_after_a_failure_it_begins_with_new_connections(topic: str) -> None:
    """A compacted topic takes no record without a key; the library has no name for that."""
    admin = AIOKafkaAdminClient(bootstrap_servers=ADDRESS)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"cleanup.policy": "compact"})])
    finally:
        await admin.close()
    async with open_kafka(target(topic + "-good"), OPEN) as good, open_kafka(target(topic, key=""), OPEN) as bad:
        await good.send(event())
        before = clients()
        with pytest.raises(Failed):
            await bad.send(event())
        [first] = clients() - before
        with pytest.raises(Failed):
            await bad.send(event())
        assert clients() - before - {first}


def clients() -> set[str]:
    """The addresses of those connected to the broker (proc(5), net/tcp)."""
    port = f":{int(ADDRESS.rpartition(':')[2]):04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[2].endswith(port) and row[3] == "01"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker of this test alone, to be killed."""
    try:
        found = KafkaBroker(tmp_path / "kafka").start()
    except NoKafka as error:
        pytest.skip(str(error))
    yield found
    found.kill()


async def test_kill_and_restart_under_load_lose_nothing(broker: KafkaBroker, topic: str) -> None:
    """20 workers deliver 2,000 events, each again until it is taken, as the lane does; the broker is killed twice meanwhile."""
    delivered: set[str] = set()
    failures: Counter[str] = Counter()
    waiting = [f"e{number}" for number in range(2000)]

    async def deliver(sender: Kafka) -> None:
        while waiting:
            number = int(waiting.pop()[1:])
            while True:
                try:
                    async with asyncio.timeout(3):
                        await sender.send(event(number))
                except (Failed, TimeoutError) as error:
                    failures[type(error).__name__] += 1
                    await asyncio.sleep(0.1)
                else:
                    delivered.add(f"e{number}")
                    break

    async with open_kafka(target(topic, broker.address, timeout="3s"), OPEN) as sender, asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(deliver(sender))
        for threshold in (300, 1000):
            while len(delivered) < threshold:
                await asyncio.sleep(0.01)
            broker.kill()
            while not failures:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(broker.start)
            failures.clear()
    assert len(delivered) == 2000
    found: set[str] = set()
    async with asyncio.timeout(60):
        count = 2000
        while len(found) < 2000:  # what was sent twice is there twice
            found = {record.key.decode() for record in await consumed(broker.address, topic, count)}
            count += 1
    assert found == delivered


async def test_sasl_over_tls(tmp_path: Path, topic: str) -> None:
    authority = Authority()
    pair, port = authority.issue(), free_port()
    store = tmp_path / "server.pem"
    store.write_text(pair.key + pair.certificate)
    login = "org.apache.kafka.common.security"
    name = "listener.name.sasl_ssl"
    more = f"""
ssl.keystore.type=PEM
ssl.keystore.location={store}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
{name}.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_jo="secret";
{name}.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;
{name}.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
"""
    users = tuple(f"SCRAM-SHA-{bits}=[name=jo,password=secret]" for bits in (256, 512))
    try:
        broker = KafkaBroker(tmp_path / "kafka", listeners=f",SASL_SSL://localhost:{port}", more=more, users=users).start()
    except NoKafka as error:
        pytest.skip(str(error))
    try:
        for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            for password, ca, good in (
                ("secret", authority.certificate, True),
                ("wrong", authority.certificate, False),
                ("secret", Authority().certificate, False),
            ):
                sasl = {"mechanism": mechanism, "username": "jo", "password": password}
                given = target(topic, f"localhost:{port}", sasl=sasl, tls={"ca": ca}, timeout="5s")
                async with open_sender(given, OPEN) as sender:
                    if good:
                        assert await sender.send(event()) == 200
                    else:
                        with pytest.raises(Failed):
                            await sender.send(event())
    finally:
        broker.kill()


async def test_a_health_check_asks_the_brokers_for_metadata(topic: str) -> None:
    async with open_kafka(target(topic), OPEN) as sender:
        await sender.check()
        await sender.check()
    async with open_kafka(target(topic, f"127.0.0.1:{free_port()}"), OPEN) as sender:
        with pytest.raises(Failed):
            await sender.check()
