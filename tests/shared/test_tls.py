"""TLS of the public ports: handshakes on real sockets, with certificates that are made here and change while they are used."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import uvloop
from aiohttp import web
from prometheus_client import REGISTRY

from services.ingest.settings import Settings
from tas_mcp.errors import Misconfigured
from tas_mcp.http import HANDSHAKE_SECONDS, application, json_response, listening
from tas_mcp.tls import Certificates, certificates, names
from tests.certificates import Authority, Pair
from tests.shared.rig import until

SPIFFE = "spiffe://example.org/shop"
AUTHORITY, STRANGER = Authority(), Authority()
SERVER = AUTHORITY.issue()
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED = (aiohttp.ClientConnectionError, ssl.SSLError)


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Services run on it, and its TLS is its own."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


def write(folder: Path, pair: Pair, client_ca: str = "", **changes: str) -> Settings:
    """The files of a pair, and the settings that name them."""
    folder.mkdir(exist_ok=True)
    for name, text in (("cert.pem", pair.certificate), ("key.pem", pair.key), ("ca.pem", client_ca)):
        (folder / name).write_text(text)
    paths = {name: str(folder / file) for name, file in (("tls_cert_file", "cert.pem"), ("tls_key_file", "key.pem"))}
    if client_ca:
        paths["tls_client_ca_file"] = str(folder / "ca.pem")
    return Settings(**{**paths, **changes})  # type: ignore[arg-type]


class Client(NamedTuple):
    """How a client connects, trusting ``AUTHORITY``: with which certificate of its own, if any."""

    folder: Path
    port: int
    pair: Pair | None = None

    def context(self, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=AUTHORITY.certificate)
        context.maximum_version = newest
        if self.pair:
            own = self.folder / "client.pem"
            own.write_text(self.pair.certificate + self.pair.key)
            context.load_cert_chain(own)
        return context

    async def names(self) -> list[str]:
        """A request on a new connection: the names that the server knows its client by."""
        connector = aiohttp.TCPConnector(ssl=self.context())
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(f"https://localhost:{self.port}/") as answer:
                return list(await answer.json())

    async def refused(self) -> bool:
        try:
            await self.names()
        except REFUSED:
            return True
        return False

    @asynccontextmanager
    async def connected(
        self, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.context(newest))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def serial(self) -> str:
        """The serial number of the certificate that a new connection is shown."""
        async with self.connected() as (_, writer):
            found: str = writer.get_extra_info("peercert")["serialNumber"]
            return found


async def seen(request: web.Request) -> web.StreamResponse:
    return json_response(names(request.transport))


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[tuple[int, Certificates]]:
    found = certificates(settings, seconds=0.01)
    assert found is not None
    app = application([web.get("/", seen)], 100)
    async with found.running(), listening(app, "localhost", 0, what="TAS_HTTP_PORT", drain_seconds=1, tls=found.context) as port:
        yield port, found


@on_uvloop
async def test_a_new_pair_is_shown_to_new_connections_and_open_ones_go_on(tmp_path: Path) -> None:
    async with served(write(tmp_path, SERVER)) as (port, _):
        client = Client(tmp_path, port)
        async with client.connected() as (reader, writer):
            before = await client.serial()
            assert REGISTRY.get_sample_value("mcp_certificate_valid") == 1
            expiry = REGISTRY.get_sample_value("mcp_certificate_expiry_seconds")
            write(tmp_path, AUTHORITY.issue(days=5))

            async def changed() -> bool:
                return await client.serial() != before

            await until(changed)
            writer.write(REQUEST)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            assert (REGISTRY.get_sample_value("mcp_certificate_expiry_seconds") or 0) > (expiry or 0) + 3 * 86_400


@on_uvloop
async def test_files_that_cannot_be_used_leave_the_old_pair_in_force(tmp_path: Path) -> None:
    async with served(write(tmp_path, SERVER)) as (port, found):
        client = Client(tmp_path, port)
        before = await client.serial()
        fresh = AUTHORITY.issue()
        for broken in (Pair(fresh.certificate, SERVER.key), Pair("no PEM", fresh.key), Pair("", "")):
            write(tmp_path, broken)
            await until(lambda: "the old certificates stay in force" in found.note)
            assert REGISTRY.get_sample_value("mcp_certificate_valid") == 0
            assert await client.serial() == before
        (tmp_path / "key.pem").unlink()
        await until(lambda: "key.pem: No such file" in found.note)
        assert await client.serial() == before
        write(tmp_path, fresh)
        await until(lambda: not found.note)
        assert REGISTRY.get_sample_value("mcp_certificate_valid") == 1
        assert await client.serial() != before


@on_uvloop
async def test_a_secret_of_kubernetes_is_taken_as_one(tmp_path: Path) -> None:
    """Its files are links through one link, which is swapped."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    write(tmp_path / "one", SERVER)
    (mounted / "..data").symlink_to(tmp_path / "one")
    for name in ("cert.pem", "key.pem"):
        (mounted / name).symlink_to(Path("..data") / name)
    settings = Settings(tls_cert_file=str(mounted / "cert.pem"), tls_key_file=str(mounted / "key.pem"))
    async with served(settings) as (port, found):
        before = await Client(tmp_path, port).serial()
        notes = set()
        for number in range(3):
            write(tmp_path / f"next{number}", AUTHORITY.issue())
            (mounted / "..new").symlink_to(tmp_path / f"next{number}")
            (mounted / "..new").rename(mounted / "..data")
            shown = found.loaded
            await until(lambda shown=shown: found.loaded is not shown)  # type: ignore[misc]
            notes.add(found.note)
        assert notes == {""}
        assert await Client(tmp_path, port).serial() != before


@pytest.mark.parametrize("demand", ["required", "optional"])
@on_uvloop
async def test_only_clients_of_our_authority_get_in(tmp_path: Path, demand: str) -> None:
    good = AUTHORITY.issue("shop", uri=SPIFFE)
    async with served(write(tmp_path, SERVER, AUTHORITY.certificate, tls_client=demand)) as (port, _):
        assert await Client(tmp_path, port, good).names() == [SPIFFE, "localhost"]
        for bad in (STRANGER.issue("shop", uri=SPIFFE), AUTHORITY.issue("shop", uri=SPIFFE, days=-1)):
            assert await Client(tmp_path, port, bad).refused()
        if demand == "required":
            assert await Client(tmp_path, port).refused()
        else:
            assert await Client(tmp_path, port).names() == []


@on_uvloop
async def test_an_authority_that_is_taken_away_opens_no_door_any_more(tmp_path: Path) -> None:
    old, new = Authority(), Authority()
    settings = write(tmp_path, SERVER, old.certificate, tls_client="required")
    async with served(settings) as (port, _):
        insider = Client(tmp_path, port, old.issue("a"))
        assert not await insider.refused()
        write(tmp_path, SERVER, new.certificate)
        await until(insider.refused)
        assert not await Client(tmp_path, port, new.issue("b")).refused()


@on_uvloop
async def test_only_tls_1_3_is_spoken(tmp_path: Path) -> None:
    async with served(write(tmp_path, SERVER)) as (port, _):
        async with Client(tmp_path, port).connected() as (_, writer):
            assert writer.get_extra_info("cipher")[1] == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with Client(tmp_path, port).connected(ssl.TLSVersion.TLSv1_2):
                pass
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(f"http://localhost:{port}/")


@on_uvloop
async def test_who_does_not_end_the_handshake_is_cut_and_keeps_nobody_out(tmp_path: Path) -> None:
    async with served(write(tmp_path, SERVER)) as (port, _):
        silent = [await asyncio.open_connection("localhost", port) for _ in range(50)]
        for number, (_, writer) in enumerate(silent):
            writer.write(b"\x16\x03\x01"[: number % 4])  # a handshake begins so
        for _ in range(10):
            assert await Client(tmp_path, port).names() == []
        async with asyncio.timeout(HANDSHAKE_SECONDS + 15):
            await asyncio.gather(*(reader.read() for reader, _ in silent), return_exceptions=True)
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tls_cert_file": "cert.pem"}, "come together"),
        ({"tls_key_file": "key.pem"}, "come together"),
        ({"tls_client_ca_file": "ca.pem"}, "needs both"),
        ({"tls_cert_file": "cert.pem", "tls_key_file": "key.pem", "tls_callers": "a = admin"}, "needs TAS_TLS_CLIENT_CA_FILE"),
        ({"tls_cert_file": "cert.pem", "tls_key_file": "gone.pem"}, "gone.pem: No such file"),
        ({"tls_cert_file": "cert.pem", "tls_key_file": "other.pem"}, "KEY_VALUES_MISMATCH"),
        ({"tls_cert_file": "cert.pem", "tls_key_file": "locked.pem"}, "cannot be loaded"),
        ({"tls_cert_file": "cert.pem", "tls_key_file": "key.pem", "tls_client_ca_file": "ca.pem"}, "cannot be loaded"),
    ],
)
def test_what_cannot_be_used_stops_the_start(tmp_path: Path, files: dict[str, str], said: str) -> None:
    write(tmp_path, SERVER)
    (tmp_path / "other.pem").write_text(AUTHORITY.issue().key)
    (tmp_path / "locked.pem").write_text(AUTHORITY.issue(password=b"secret").key)
    settings = Settings(**{name: str(tmp_path / file) if name.endswith("file") else file for name, file in files.items()})  # type: ignore[arg-type]
    with pytest.raises(Misconfigured, match=said) as raised:
        certificates(settings)
    assert "TAS_TLS_" in str(raised.value)


def test_without_files_there_is_no_tls() -> None:
    assert certificates(Settings()) is None
    assert names(None) == ()
