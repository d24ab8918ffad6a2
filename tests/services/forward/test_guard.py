"""The guard where it matters: a delivery reaches no address that is not allowed, whatever names and answers say."""

import socket
from collections.abc import Sequence

import pytest
from aiohttp import web

from services.forward.addresses import networks
from services.forward.guard import AddrInfo, Guard
from services.forward.targets import open_sender
from services.forward.verdict import Failed, Refused
from tas_mcp import targets
from tas_mcp.http import application, listening
from tests.services.forward.rig import event
from tests.services.forward.servers.hostile import Hostile, answering

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
LOOPBACK = networks("127.0.0.0/8,::1")


class Names:
    """A resolver whose n-th answer for any name is the n-th given, or the last."""

    def __init__(self, *answers: str) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def lookup(self, host: str, port: int) -> Sequence[AddrInfo]:
        answer = self._answers[min(len(self.asked), len(self._answers) - 1)]
        self.asked.append(host)
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [addr_info(each, port) for each in answer.split()]


def addr_info(text: str, port: int) -> AddrInfo:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    rest = (port, 0, 0) if ":" in text else (port,)
    return (family, socket.SOCK_STREAM, 6, "", (text, *rest))


async def addresses(guard: Guard, host: str = "a.test", port: int = 80) -> list[str]:
    return [str(each[4][0]) for each in await guard.resolve(host, port)]


async def deliver(endpoint: str, guard: Guard) -> int:
    target, _ = targets.check({"id": "t", "type": "http", "endpoint": endpoint})
    async with open_sender(target, guard) as sender:
        return await sender.send(event(1))


# What is resolved.


async def test_only_what_is_allowed_is_left() -> None:
    names = Names("10.0.0.1 8.8.8.8 ::1 2606:4700::1111")
    assert await addresses(Guard(lookup=names.lookup)) == ["8.8.8.8", "2606:4700::1111"]


async def test_the_failure_names_the_host_each_address_and_the_setting() -> None:
    with pytest.raises(Failed) as caught:
        await addresses(Guard(lookup=Names("10.0.0.1 fd00::1").lookup))
    assert caught.value.detail == (
        "no connection to a.test:80: of its addresses 10.0.0.1 is private, which TAS_ALLOWED_NETWORKS does not open; "
        "fd00::1 is private (ULA), which TAS_ALLOWED_NETWORKS does not open"
    )


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0", "::1", "::ffff:7f00:1", "fe80::1%lo"]
)
async def test_addresses_in_odd_spellings_are_refused_for_good(host: str) -> None:
    with pytest.raises(Refused, match="TAS_ALLOWED_NETWORKS"):
        await addresses(Guard(), host)


async def test_a_name_for_this_machine_may_be_given_another_address() -> None:
    with pytest.raises(Failed, match=r"no connection to localhost:80: .*loopback"):
        await addresses(Guard(), "localhost")


# Our own broker.


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("nats://10.0.0.5:4222", "10.0.0.5", 4222),
        (" 10.0.0.5", "10.0.0.5", 4222),
        ("tls://user:secret@10.0.0.5:5222", "::ffff:10.0.0.5", 5222),
        ("nats://127.0.0.1:4222", "127.0.0.9", 4222),
        ("nats://127.0.0.1:4222", "::1", 4222),
        ("nats://localhost:4222", "0.0.0.0", 4222),
    ],
)
async def test_the_broker_is_no_target_even_where_all_is_open(url: str, host: str, port: int) -> None:
    guard = Guard(networks("0.0.0.0/0,::/0"), ["nats://10.9.9.9:1", url])
    with pytest.raises(Refused, match="this gateway's own broker"):
        await addresses(guard, host, port)
    assert await addresses(guard, host, port + 1)


async def test_the_broker_is_known_by_what_its_name_resolves_to() -> None:
    names = Names("10.0.0.5", "10.0.0.6 10.0.0.7")
    guard = Guard(networks("10.0.0.0/8"), ["nats://nats.internal:4222"], names.lookup)
    with pytest.raises(Failed, match=r"10\.0\.0\.6 is this gateway's own broker"):
        await addresses(Guard(networks("10.0.0.0/8"), ["nats://b"], Names("10.0.0.6", "10.0.0.6").lookup), "a.test", 4222)
    assert await addresses(guard, "a.test", 4222) == ["10.0.0.5"]
    assert names.asked == ["a.test", "nats.internal"]


async def test_a_server_that_joined_the_broker_s_cluster_is_no_target_from_then_on() -> None:
    peers: list[str] = []
    guard = Guard(networks("10.0.0.0/8"), ["nats://10.0.0.5:4222"], peers=lambda: peers)
    assert await addresses(guard, "10.0.0.6", 4222) == ["10.0.0.6"]
    peers.append("nats://10.0.0.6:4222")
    for host in ("10.0.0.5", "10.0.0.6"):
        with pytest.raises(Refused, match="this gateway's own broker"):
            await addresses(guard, host, 4222)


async def test_a_broker_whose_name_is_away_hinders_nobody_and_is_asked_again() -> None:
    names = Names("8.8.8.8", "", "10.0.0.6", "10.0.0.6")
    guard = Guard(networks("10.0.0.0/8"), ["nats://nats.internal"], names.lookup)
    assert await addresses(guard, "a.test", 4222) == ["8.8.8.8"]
    assert await addresses(guard, "a.test", 80) == ["10.0.0.6"]


# What is connected to.


async def test_the_checked_address_is_the_one_connected_to() -> None:
    """A name that has two answers (rebinding): what was looked at first is used, and it is asked once."""
    async with (
        Hostile(answering(OK)).listening() as good,
        Hostile(answering(OK)).listening(host="127.0.0.2", port=good.port) as bad,
    ):
        names = Names("127.0.0.1", "127.0.0.2")
        guard = Guard(networks("127.0.0.1"), lookup=names.lookup)
        assert await deliver(f"http://rebinding.test:{good.port}/", guard) == 200
        assert (names.asked, good.requests, bad.requests) == (["rebinding.test"], 1, 0)


async def test_every_new_resolution_is_checked() -> None:
    async with (
        Hostile(answering(OK)).listening() as good,
        Hostile(answering(OK)).listening(host="127.0.0.2", port=good.port) as bad,
    ):
        names = Names("127.0.0.1", "127.0.0.2", "127.0.0.1")
        guard = Guard(networks("127.0.0.1"), lookup=names.lookup)
        endpoint = f"http://rebinding.test:{good.port}/"
        assert await deliver(endpoint, guard) == 200
        with pytest.raises(Failed, match=r"127\.0\.0\.2 is loopback"):
            await deliver(endpoint, guard)
        assert await deliver(endpoint, guard) == 200
        assert (good.requests, bad.requests) == (2, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_nothing_reaches_a_server_of_this_machine(host: str) -> None:
    async with Hostile(answering(OK)).listening() as server:
        with pytest.raises(Refused, match="loopback"):
            await deliver(f"http://{host}:{server.port}/", Guard())
        assert server.connections == 0
        assert await deliver(f"http://{host}:{server.port}/", Guard(LOOPBACK)) == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_nowhere(status: int) -> None:
    seen: list[str] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=status, headers={"Location": "/inside", "Refresh": "0; url=/inside"})

    async with listening(application([web.route("*", "/{any:.*}", take)], 1000), "127.0.0.1", 0, what="X") as port:
        with pytest.raises(Refused):
            await deliver(f"http://127.0.0.1:{port}/hook", Guard(LOOPBACK))
    assert seen == ["/hook"]
