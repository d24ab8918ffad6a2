"""The gRPC port over TLS: who gets in, who they are, and certificates that change."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from services.ingest.settings import Settings
from tas_mcp.tls import certificates
from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc
from tests.certificates import Authority, Pair
from tests.services.ingest.calls import GOOD, called
from tests.shared.rig import until

AUTHORITY, STRANGER = Authority(), Authority()
CALLERS = "spiffe://example.org/shop = events:write"
REFUSED = "UNAVAILABLE"


def write(folder: Path, client_ca: str = "") -> dict[str, Any]:
    """A new pair for the server, and the settings that name it."""
    pair = AUTHORITY.issue()
    files = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key, "tls_client_ca_file": client_ca}
    for name, text in files.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name, text in files.items() if text}


@asynccontextmanager
async def served(settings: dict[str, Any]) -> AsyncIterator[int]:
    found = certificates(Settings(**settings), seconds=0.01)
    assert found is not None
    async with found.running(), called(certificates=found, auth="keys", **settings) as server:
        yield server.port


async def status(port: int, pair: Pair | None = None) -> str:
    """What comes of an event that is sent on a new connection."""
    own = (pair.key.encode(), pair.certificate.encode()) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate.encode(), *own)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            await mcp_pb2_grpc.MCPServiceStub(channel).IngestBatch(mcp_pb2.EventBatch(events=[GOOD]))
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"


async def serial(port: int) -> str:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=AUTHORITY.certificate)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found: str = writer.get_extra_info("peercert")["serialNumber"]
    writer.transport.abort()
    return found


async def test_a_certificate_gets_in_and_says_who_calls(tmp_path: Path) -> None:
    shop, other = AUTHORITY.issue("shop", uri="spiffe://example.org/shop"), AUTHORITY.issue("other")
    demand = {"tls_client": "required", "tls_callers": CALLERS}
    async with served({**write(tmp_path, AUTHORITY.certificate), **demand}) as port:
        assert await status(port, shop) == "OK"
        assert await status(port, other) == "UNAUTHENTICATED"
        assert await status(port) == REFUSED
        assert await status(port, STRANGER.issue("shop", uri="spiffe://example.org/shop")) == REFUSED
        assert await status(port, AUTHORITY.issue("shop", uri="spiffe://example.org/shop", days=-1)) == REFUSED
        write(tmp_path, STRANGER.certificate)

        async def is_refused() -> bool:
            return await status(port, shop) == REFUSED

        await until(is_refused)


async def test_where_certificates_are_optional_nobody_is_known_by_one(tmp_path: Path) -> None:
    shop = AUTHORITY.issue("shop", uri="spiffe://example.org/shop")
    async with served({**write(tmp_path, AUTHORITY.certificate), "tls_callers": CALLERS}) as port:
        assert await status(port, shop) == "UNAUTHENTICATED"
        assert await status(port) == "UNAUTHENTICATED"


async def test_a_new_pair_is_shown_to_new_connections(tmp_path: Path) -> None:
    async with served(write(tmp_path)) as port:
        before = await serial(port)
        write(tmp_path)

        async def changed() -> bool:
            return await serial(port) != before

        await until(changed)
