"""Links to a broker that wants to know who calls, over TLS, with certificates and keys that are made here."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nkeys
import pytest

from tas_mcp.broker import Connection
from tas_mcp.broker.security import Tls, client_context
from tas_mcp.errors import Misconfigured
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime
from tas_mcp.settings import ServiceSettings
from tests.certificates import Authority, Pair
from tests.nats_keys import ACCOUNT, OPERATED, USER, Key, credentials
from tests.nats_server import NatsServer
from tests.shared.rig import until

AUTHORITY = Authority()
Start = Callable[..., NatsServer]
CREDS = credentials(ACCOUNT, USER)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def tls(folder: Path, pair: Pair, client_ca: str = "", options: str = "") -> str:
    """The TLS block of a server's configuration."""
    files = f"cert_file: '{write(folder, 'cert', pair.certificate)}', key_file: '{write(folder, 'key', pair.key)}'"
    verify = f", ca_file: '{write(folder, 'clients', client_ca)}', verify: true" if client_ca else ""
    return f"tls {{ {files}{verify}{options} }}\n"


def trusting(folder: Path, authority: Authority = AUTHORITY, first: bool = False) -> Tls:
    return Tls(partial(client_context, write(folder, "trusted", authority.certificate), "", ""), first)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers of this test."""
    servers = []

    def run(config: str, silent: bool = False, folder: Path = tmp_path) -> NatsServer:
        servers.append(NatsServer(folder, config, silent))
        return servers[-1].start()

    yield run
    for server in servers:
        server.kill()


@asynccontextmanager
async def linked(server: NatsServer, **options: Any) -> AsyncIterator[Connection]:
    async with Connection([server.url], "test", **options).running() as connection:
        yield connection


async def troubled(connection: Connection, text: str) -> None:
    await until(lambda: text in connection.trouble)
    assert not connection.connected


@pytest.mark.parametrize(
    ("config", "good", "bad"),
    [
        (
            "authorization { users = [ { user: jo, password: secret } ] }",
            {"user": "jo", "password": "secret"},
            {"user": "jo", "password": "no"},
        ),
        ("authorization { token: secret }", {"token": "secret"}, {"token": "no"}),
        (
            f"authorization {{ users = [ {{ nkey: {USER.public} }} ] }}",
            {"nkey": USER.seed},
            {"nkey": Key(nkeys.PREFIX_BYTE_USER).seed},
        ),
    ],
    ids=["password", "token", "nkey"],
)
async def test_who_may_connect_over_tls(
    tmp_path: Path, start: Start, config: str, good: dict[str, str], bad: dict[str, str]
) -> None:
    server = start(tls(tmp_path, AUTHORITY.issue()) + config)
    async with linked(server, tls=trusting(tmp_path), **good) as connection:
        await until(lambda: connection.connected)
        await connection.flush()
    for wrong in (bad, {}):
        async with linked(server, tls=trusting(tmp_path), **wrong) as connection:
            await troubled(connection, "Authorization Violation")


async def test_a_credentials_file_is_read_at_each_connect(tmp_path: Path, start: Start) -> None:
    server = start(OPERATED)
    path = tmp_path / "user.creds"
    async with linked(server, creds=str(path)) as connection:
        for text, trouble in (("", "user.creds"), ("nothing of the kind", "credentials"), (CREDS.replace("SU", "XX"), "cannot")):
            if text:
                path.write_text(text)
            await troubled(connection, trouble)
        path.write_text(CREDS)
        await until(lambda: connection.connected)


async def test_a_server_that_is_not_ours_is_told_nothing(tmp_path: Path, start: Start) -> None:
    async def refused(name: str, pair: Pair, authority: Authority) -> None:
        folder = tmp_path / name
        folder.mkdir()
        server = start(tls(folder, pair), folder=folder)
        async with linked(server, tls=trusting(folder, authority), user="jo", password="secret") as connection:
            await troubled(connection, "certificate verify failed")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(refused("unknown authority", AUTHORITY.issue(), Authority()))
        tasks.create_task(refused("another address", AUTHORITY.issue(address="192.0.2.1"), AUTHORITY))
        tasks.create_task(refused("expired", AUTHORITY.issue(days=-1), AUTHORITY))


async def test_a_server_that_offers_no_tls_is_told_nothing_where_tls_is_demanded(tmp_path: Path) -> None:
    async def told(tls: Tls | None) -> list[bytes]:
        """What a server hears of two connects."""
        heard: list[bytes] = []

        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"X","version":"2.15.1","auth_required":true,"max_payload":1048576}\r\n')
            heard.append(await reader.read(1000))
            writer.close()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0)
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Connection([url], "test", user="jo", password="secret", tls=tls).running() as connection:
            await until(lambda: len(heard) > 1)
            if tls:
                await troubled(connection, "the server has no TLS")
        return heard[:2]

    silent, spoken = await asyncio.gather(told(trusting(tmp_path)), told(None))
    assert silent == [b"", b""]
    assert all(b"secret" in each for each in spoken)


async def test_a_server_that_wants_the_handshake_first(tmp_path: Path, start: Start) -> None:
    server = start(tls(tmp_path, AUTHORITY.issue(), options=", handshake_first: true"), silent=True)
    async with linked(server, tls=trusting(tmp_path, first=True)) as connection:
        await until(lambda: connection.connected)


async def test_our_own_certificate_is_read_at_each_connect(tmp_path: Path, start: Start) -> None:
    """The link is lost, and the authority for clients has changed, as have our files."""
    old, new = Authority(), Authority()
    server = start(tls(tmp_path, AUTHORITY.issue(), old.certificate))
    ca = write(tmp_path, "trusted", AUTHORITY.certificate)

    def issued(authority: Authority) -> tuple[str, str]:
        pair = authority.issue("gateway")
        return write(tmp_path, "own", pair.certificate), write(tmp_path, "own.key", pair.key)

    async with linked(server, tls=Tls(partial(client_context, ca, *issued(old)))) as connection:
        await until(lambda: connection.connected)
        write(tmp_path, "clients", new.certificate)
        server.restart()
        await troubled(connection, "cannot connect")
        issued(new)
        await until(lambda: connection.connected)


async def test_a_service_connects_as_its_settings_say(tmp_path: Path, start: Start) -> None:
    config = f"""
        authorization {{ users = [ {{ nkey: {USER.public},
            permissions {{ subscribe: [ "_INBOX_process.>", "tas.>" ], publish: [ "_INBOX_process.>", "tas.>" ] }} }} ] }}
    """
    server = start(tls(tmp_path, AUTHORITY.issue(), AUTHORITY.certificate) + config)
    own = AUTHORITY.issue("gateway")
    settings = ServiceSettings(
        nats_url=server.url.replace("nats:", "tls:"),
        nats_nkey=USER.seed,
        nats_ca_file=write(tmp_path, "trusted", AUTHORITY.certificate),
        nats_cert_file=write(tmp_path, "own", own.certificate),
        nats_key_file=write(tmp_path, "own.key", own.key),
    )
    async with Runtime("process", settings, Ops()).running() as runtime:
        await until(lambda: runtime.connection.connected)

        def hear(message: Any) -> None:
            runtime.connection.send(message.reply, b"pong")

        async with runtime.connection.subscribed("tas.x", hear):
            assert (await runtime.connection.request("tas.x", b"ping")).data == b"pong"


@pytest.mark.parametrize("setting", ["nats_ca_file", "nats_cert_file"])
def test_certificates_that_cannot_be_used_stop_the_start(tmp_path: Path, setting: str) -> None:
    for path in (write(tmp_path, "empty", "no PEM"), str(tmp_path / "gone")):
        with pytest.raises(Misconfigured, match="TAS_NATS_CA_FILE"):
            Runtime("process", ServiceSettings(**{setting: path}), Ops())  # type: ignore[arg-type]
