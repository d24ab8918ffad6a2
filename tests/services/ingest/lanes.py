"""The event routes without a broker: both lanes on ports of their own, the test deciding when an event is stored."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from aiohttp import web

from services.ingest.express import Express
from services.ingest.http import routes
from services.ingest.intake import Intake
from services.ingest.schemas import Schemas
from services.ingest.settings import Settings
from services.ingest.tail import Tail
from services.ingest.websocket import Sockets
from tas_mcp.auth import Authentication
from tas_mcp.broker import Connection, Publisher
from tas_mcp.broker.publisher import Settle
from tas_mcp.http import application, listening
from tas_mcp.messages import PubAck, decode_event
from tas_mcp.ops import Ops
from tas_mcp.submission import Limits

STORED = PubAck("EVENTS", 1)


class Store:
    """What ``Intake`` needs of a ``Publisher``. Events are stored at once, or where ``holding`` when ``release`` says so."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.holding = False
        self.held: list[Settle] = []

    def publish(self, subject: str, payload: bytes, settle: Settle, *, msg_id: str = "", headers: Any = None) -> None:
        self.payloads.append(payload)
        if self.holding:
            self.held.append(settle)
        else:
            settle(STORED)

    async def room(self) -> None:
        """There is always room."""

    def release(self, index: int = 0) -> None:
        """Store one that is held."""
        self.held.pop(index)(STORED)

    def release_all(self) -> None:
        held, self.held = self.held, []
        for settle in held:
            settle(STORED)

    def stored(self) -> list[Any]:
        """What was stored, without what differs from run to run."""
        found = []
        for event in map(decode_event, self.payloads):
            made = event.event_id if len(event.event_id) < 36 else ""
            found.append((made, event.event_type, event.source, bytes(event.data), {**event.metadata, **event.cloudevent}))
        return found


class Lane(NamedTuple):
    """A running lane."""

    port: int
    store: Store
    front: Express | None


def parts(store: Store, *, express: bool, **changes: Any) -> tuple[web.Application, Express | None]:
    """The application of the event routes, and what is before it."""
    settings = Settings(**{"auth": "none", **changes})
    connection = Connection([], "test")  # never made
    auth = Authentication(connection, settings)
    publisher = cast(Publisher, store)
    schemas = Schemas(publisher)
    schemas.use([])
    intake = Intake(publisher, Limits(settings.max_event_bytes, settings.max_depth, settings.max_metadata), schemas)
    front = Express(settings, intake, auth) if express else None
    sockets = Sockets(settings, intake, Tail(connection), auth)
    ours = [*routes(settings, intake, auth, front), *sockets.routes(), *Ops().routes(metrics=False)]
    return application(ours, settings.max_batch_bytes + 1, [sockets.drain]), front


@asynccontextmanager
async def lane(
    *,
    express: bool = True,
    tls: ssl.SSLContext | None = None,
    drain_seconds: float = 5.0,
    store: Store | None = None,
    **changes: Any,
) -> AsyncIterator[Lane]:
    """Listen on a free port; ``changes`` are settings."""
    found = store or Store()
    app, front = parts(found, express=express, **changes)
    door = listening(app, "127.0.0.1", 0, what="TAS_HTTP_PORT", drain_seconds=drain_seconds, front=front, tls=tls)
    async with door as port:
        yield Lane(port, found, front)


class Certificates(NamedTuple):
    """A CA of our own, and a certificate by it for ``localhost``."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def certificates(folder: Path) -> Certificates:
    """Make them; the client trusts the CA and nobody else."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=120)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca_uses = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", "-days", "1", *ca_uses)
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.pem", *signing)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    return Certificates(server, ssl.create_default_context(cafile=str(folder / "ca.pem")))


async def turns(count: int = 50) -> None:
    """Let the loop turn: what is ready is done, and what that makes ready, and so on. No time passes."""
    for _ in range(count):
        await asyncio.sleep(0)
