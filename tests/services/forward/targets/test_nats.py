"""The NATS sender against a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest
from msgspec import structs

from services.forward.guard import Guard
from services.forward.targets import open_sender
from services.forward.targets.nats import Nats, open_nats
from services.forward.verdict import Failed, Refused
from tas_mcp import targets
from tas_mcp.broker import Message
from tas_mcp.messages import webhook_id
from tests.certificates import Authority
from tests.contracts.target import event
from tests.nats_keys import ACCOUNT, OPERATED, USER, Key, credentials
from tests.nats_server import NatsServer
from tests.services.forward.rig import OPEN
from tests.shared.rig import Broker, linked, until


def target(server: NatsServer, scheme: str = "nats", **config: Any) -> targets.NatsTarget:
    endpoint = f"{scheme}://localhost:{server.port}"
    found, _ = targets.check({"id": "t", "type": "nats", "endpoint": endpoint, "config": {"subject": "S.orders", **config}})
    assert isinstance(found, targets.NatsTarget)
    return found


async def check_entry(given: targets.NatsTarget, accepted: bool) -> None:
    """Whether the target's server lets us in."""
    async with open_nats(given, OPEN) as sender:
        if accepted:
            assert await sender.send(event()) == 200
        else:
            with pytest.raises(Failed):
                await sender.send(event())


@pytest.fixture
async def broker(nats: NatsServer) -> AsyncIterator[Broker]:
    async with linked(nats.url) as found:
        await found.stream()
        yield found


async def stored(nats: NatsServer, broker: Broker, **config: Any) -> Message:
    """The message that one event becomes."""
    async with open_sender(target(nats, **config), OPEN) as sender:
        assert await sender.send(event()) == 200
    [found] = await broker.messages("S")
    return found


async def test_a_message_of_the_tas_format(nats: NatsServer, broker: Broker) -> None:
    found = await stored(nats, broker, headers={"X-Team": "blue"})
    assert found.subject == "S.orders"
    assert b'"event_id":"e1"' in found.data
    ours = {name: value for name, value in found.headers.items() if name not in ("Nats-Sequence", "Nats-Time-Stamp")}
    assert {"webhook-id": webhook_id(event()), "content-type": "application/json", "X-Team": "blue"}.items() <= ours.items()
    assert ours["Nats-Msg-Id"] == f"{webhook_id(event())}:t"


async def test_a_cloudevent_in_binary_form(nats: NatsServer, broker: Broker) -> None:
    found = await stored(nats, broker, format="cloudevents-binary")
    assert found.data == b'{"b": 1, "a":[1.0,"\xc3\xa9"]}'
    attributes = {name: value for name, value in found.headers.items() if name.startswith("ce-")}
    assert attributes == {
        "ce-specversion": "1.0",
        "ce-id": "e1",
        "ce-source": "auth",
        "ce-type": "user.created",
        "ce-time": "2023-12-19T15:53:54Z",
        "ce-datacontenttype": "application/json",
        "ce-region": "eu",
    }


async def test_a_cloudevent_in_structured_form(nats: NatsServer, broker: Broker) -> None:
    found = await stored(nats, broker, format="cloudevents")
    assert found.headers["content-type"] == "application/cloudevents+json"
    assert b'"data":{"b": 1, "a":[1.0,"\xc3\xa9"]}' in found.data


async def test_what_is_not_ascii_is_encoded_in_headers(nats: NatsServer, broker: Broker) -> None:
    async with open_nats(target(nats, format="cloudevents-binary"), OPEN) as sender:
        await sender.send(structs.replace(event(), source="Müller & Söhne"))
    [found] = await broker.messages("S")
    assert found.headers["ce-source"] == "M%C3%BCller%20&%20S%C3%B6hne"


async def test_the_text_of_a_template_goes_as_it_stands(nats: NatsServer, broker: Broker) -> None:
    async with open_nats(target(nats), OPEN) as sender:
        assert await sender.send_text(event(), "Grüße", "text/plain") == 200
    [found] = await broker.messages("S")
    assert (found.data, found.headers["content-type"]) == ("Grüße".encode(), "text/plain")


async def test_the_subject_may_be_a_template(nats: NatsServer, broker: Broker) -> None:
    async with open_nats(target(nats, subject="S.{{ event.metadata.region }}.{{ event.data.b }}"), OPEN) as sender:
        assert await sender.send(event()) == 200
        wild = event(2, b'{"b": "*"}')
        with pytest.raises(Refused, match=r"config\.subject"):
            await sender.send(wild)
        outcomes = await sender.send_batch([wild, event(3)])
    assert isinstance(outcomes[0], Refused)
    assert outcomes[1] == 200
    assert [message.subject for message in await broker.messages("S")] == ["S.eu.1", "S.eu.1"]


async def test_another_attempt_is_not_stored_twice_but_another_target_s_is(nats: NatsServer, broker: Broker) -> None:
    other = structs.replace(target(nats), id="other")
    async with open_nats(target(nats), OPEN) as sender, open_nats(other, OPEN) as twin:
        for each in (sender, sender, twin):
            assert await each.send(event()) == 200
    assert len(await broker.messages("S")) == 2


async def test_without_jetstream_whoever_listens_gets_it(nats: NatsServer) -> None:
    seen: list[Message] = []
    async with linked(nats.url) as broker, broker.connection.subscribed("core.orders", seen.append):
        await broker.connection.flush()
        async with open_nats(target(nats, subject="core.orders", jetstream=False), OPEN) as sender:
            assert await sender.send(event()) == 200
            await until(lambda: seen)
            nats.kill()
            with pytest.raises(Failed):
                await sender.send(event(2))


async def test_a_subject_that_no_stream_takes_may_get_one(nats: NatsServer, broker: Broker) -> None:
    async with open_nats(target(nats, subject="elsewhere"), OPEN) as sender:
        with pytest.raises(Failed, match="no stream takes this subject"):
            await sender.send(event())


async def test_what_is_too_large_for_the_server_is_refused(nats: NatsServer, broker: Broker) -> None:
    async with open_nats(target(nats), OPEN) as sender:
        with pytest.raises(Refused) as caught:
            await sender.send(event(1, b'"' + b"x" * 1_100_000 + b'"'))
    assert caught.value.status == 413


async def test_kill_and_restart_under_load_lose_nothing(nats: NatsServer, broker: Broker) -> None:
    waiting = list(range(1000))
    delivered: set[str] = set()
    failed: set[int] = set()

    async def deliver(sender: Nats) -> None:
        while waiting:
            number = waiting.pop()
            while f"e{number}" not in delivered:
                try:
                    await sender.send(event(number))
                    delivered.add(f"e{number}")
                except Failed:
                    failed.add(number)
                    await asyncio.sleep(0.02)

    async with open_nats(target(nats), OPEN) as sender, asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(deliver(sender))
        await until(lambda: len(delivered) > 200)
        nats.kill()
        await until(lambda: failed)
        await asyncio.to_thread(nats.start)
    await until(lambda: broker.connection.connected)
    assert {message.headers["webhook-id"] for message in await broker.messages("S")} == {
        webhook_id(event(number)) for number in range(1000)
    }


async def test_the_guard_is_asked(nats: NatsServer) -> None:
    async with open_nats(target(nats), Guard()) as sender:
        with pytest.raises(Failed, match="loopback"):
            await sender.send(event())


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[tuple[NatsServer, Authority]]:
    """A server that wants a certificate of its authority, and a login."""
    authority = Authority()
    pair = authority.issue(address="192.0.2.1")  # the name must be looked at, not the address that is connected to
    for name, text in (("ca", authority.certificate), ("cert", pair.certificate), ("key", pair.key)):
        (tmp_path / name).write_text(text)
    files = f"cert_file: {tmp_path}/cert, key_file: {tmp_path}/key, ca_file: {tmp_path}/ca"
    server = NatsServer(tmp_path, f"tls {{ {files}, verify: true }}\nauthorization {{ user: jo, password: secret }}").start()
    yield server, authority
    server.kill()


async def test_tls_and_a_login(closed: tuple[NatsServer, Authority]) -> None:
    server, authority = closed
    good = {"ca": authority.certificate, **authority.issue("gateway")._asdict()}
    for password, tls, accepted in (
        ("secret", good, True),
        ("wrong", good, False),
        ("secret", {"ca": authority.certificate}, False),
        ("secret", {**good, "ca": Authority().certificate}, False),
    ):
        given = target(server, "tls", subject="core.orders", jetstream=False, user="jo", password=password, tls=tls)
        async with open_nats(given, OPEN) as sender:
            if accepted:
                assert await sender.send(event()) == 200
            else:
                with pytest.raises(Failed):
                    await sender.send(event())


async def test_the_certificate_may_have_to_bear_another_name_than_the_endpoint(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue(address="192.0.2.1", host="nats.internal")
    for name, text in (("cert", pair.certificate), ("key", pair.key)):
        (tmp_path / name).write_text(text)
    server = NatsServer(tmp_path, f"tls {{ cert_file: {tmp_path}/cert, key_file: {tmp_path}/key }}").start()
    try:
        for name, accepted in (("nats.internal", True), ("", False), ("other.internal", False)):
            tls = {"ca": authority.certificate, "server_name": name}
            await check_entry(target(server, subject="core.orders", jetstream=False, tls=tls), accepted)
    finally:
        server.kill()


async def test_an_nkey(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, f"authorization {{ users: [ {{ nkey: {USER.public} }} ] }}").start()
    try:
        for seed, accepted in ((USER.seed, True), (Key(nkeys.PREFIX_BYTE_USER).seed, False)):
            await check_entry(target(server, subject="core.orders", jetstream=False, nkey=seed), accepted)
    finally:
        server.kill()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
async def test_a_credentials_file(tmp_path: Path, newline: str) -> None:
    server = NatsServer(tmp_path, OPERATED).start()
    try:
        for creds, accepted in (
            (credentials(ACCOUNT, USER), True),
            (credentials(Key(nkeys.PREFIX_BYTE_ACCOUNT), USER), False),
        ):
            given = target(server, subject="core.orders", jetstream=False, creds=creds.replace("\n", newline))
            await check_entry(given, accepted)
    finally:
        server.kill()


async def test_a_token(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, "authorization { token: s3cret }").start()
    try:
        async with open_nats(target(server, subject="core.orders", jetstream=False, token="s3cret"), OPEN) as sender:
            assert await sender.send(event()) == 200
    finally:
        server.kill()
