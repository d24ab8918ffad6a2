"""The gRPC server: its port, its limits, its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.ingest.grpc.calls import Calls
from services.ingest.grpc.security import credentials
from services.ingest.grpc.service import SERVICE, Service
from services.ingest.grpc.state import State
from services.ingest.intake import Intake
from services.ingest.rates import Addresses
from services.ingest.settings import Settings
from services.ingest.tail import Tail
from tas_mcp import telemetry
from tas_mcp.auth import Authentication
from tas_mcp.errors import Misconfigured
from tas_mcp.ops import Ops
from tas_mcp.ports import probe
from tas_mcp.tls import Certificates

log = telemetry.logger("grpc")

FRAMING_BYTES = 65_536
"""What a batch may have besides its events."""
CLOSE_SECONDS = 1.0
"""How long, after the last call, clients have to close their connections. Who watches our health is cut then: it never ends."""
OPTIONS = (
    # A dead client is found within 30 s + 10 s; a client may ask whether we live every 10 s (gRPC's default is 5 min, and it cuts
    # who asks more often), on a connection without a call too.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # One without a call for so long is told to go, and one that is old to make its next calls over a new one: connections spread
    # over new workers and replicas. Calls under way go on.
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.server_handshake_timeout_ms", 5_000),
)


@asynccontextmanager
async def serve(
    settings: Settings,
    intake: Intake,
    auth: Authentication,
    tail: Tail,
    ops: Ops,
    *,
    addresses: Addresses | None = None,
    shared: bool = False,
    certificates: Certificates | None = None,
) -> AsyncIterator[int]:
    """Serve while inside; yields the port (which the system chose if ``grpc_port`` is 0). With ``shared`` other workers may have
    the port too; with ``certificates`` it speaks TLS. Leaving refuses new calls, answers what is in flight and ends the streams
    (at most ``drain_seconds``), then closes.

    Raises:
        Misconfigured: the port cannot be used.
    """
    options = (
        *OPTIONS,
        ("grpc.so_reuseport", int(shared)),  # on by default: two gateways would have one port, each half of its connections
        ("grpc.max_receive_message_length", settings.max_batch_bytes + FRAMING_BYTES),
    )
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=settings.max_grpc_calls)
    calls = Calls()
    service = Service(settings, intake, auth, addresses, tail, calls, State(ops, calls))
    server.add_registered_method_handlers(SERVICE, service.handlers())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, service.handlers()),))
    checks = health.aio.HealthServicer()
    await checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    if not shared:
        probe(settings.host, settings.grpc_port, "TAS_GRPC_PORT")
    port = _listen(server, settings.host, settings.grpc_port, credentials(certificates) if certificates else None)
    await server.start()
    try:
        yield port
        await checks.enter_graceful_shutdown()
        stopping = asyncio.create_task(server.stop(settings.drain_seconds))
        await calls.drain()
        await asyncio.wait((stopping,), timeout=CLOSE_SECONDS)
    finally:
        await server.stop(None)


def _listen(server: grpc.aio.Server, host: str, port: int, tls: grpc.ServerCredentials | None) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise Misconfigured(f"TAS_GRPC_PORT: cannot listen on {address}: {error}") from None
