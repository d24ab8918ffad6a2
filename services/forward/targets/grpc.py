"""Target type ``grpc``: calls to ``mcp.v1.MCPService`` of another gateway, or of any server of that proto, over one channel."""

import asyncio
import json
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.forward.guard import AddrInfo, Guard
from services.forward.verdict import Failed, Refused
from tas_mcp import __version__
from tas_mcp.messages import Event, unix_seconds
from tas_mcp.routing import payload_text
from tas_mcp.targets import GrpcTarget
from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc

CALL_BYTES = 3 * 1024 * 1024
"""What one call carries at most: servers take 4 MiB unless told otherwise."""
DNS_SECONDS = 30.0
"""How long an answer of the resolver is believed while the calls go well."""
OPTIONS = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.enable_retries", 0),  # the lane's work
    ("grpc.enable_http_proxy", 0),  # the environment's proxy is not the target's
    ("grpc.use_local_subchannel_pool", 1),  # or closing a channel would leave its connections to others
    # As long as it backs off a channel fails every call unsent; from 1 s to 2 min by default.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.primary_user_agent", f"tas-mcp/{__version__}"),
)
STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
"""gRPC's codes in HTTP's terms, as google/rpc/code.proto (googleapis) maps them."""
REFUSALS = frozenset(
    (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,  # "should not retry until the system state has been explicitly fixed" (the same)
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)
"""What time does not heal; people may, and redrive. All others may be tried again."""


def open_grpc(target: GrpcTarget, guard: Guard) -> aclosing["Grpc"]:
    """Open a sender: it connects with the first call."""
    return aclosing(Grpc(target, guard))


class _Channel:
    """A channel to the addresses in ``name``, and the calls over it."""

    def __init__(self, name: str, target: GrpcTarget) -> None:
        host, port = target.address
        tls = target.delivery.tls
        host = (tls and tls.server_name) or host  # gRPC wants the certificate to bear the authority too
        options = [*OPTIONS, ("grpc.default_authority", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")]
        if target.secure:
            options.append(("grpc.ssl_target_name_override", host))
            self._channel = grpc.aio.secure_channel(name, _credentials(target), options)
        else:
            self._channel = grpc.aio.insecure_channel(name, options)
        self.name = name
        stub = mcp_pb2_grpc.MCPServiceStub(self._channel)
        self.one, self.many = stub.IngestEvent, stub.IngestBatch
        self.check = health_pb2_grpc.HealthStub(self._channel).Check

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)


class Grpc:
    """Sends to one endpoint. Its name is resolved here, not by gRPC: the guard looks at the addresses, and one that is new is
    found although the others still answer. All are used in turn."""

    def __init__(self, target: GrpcTarget, guard: Guard) -> None:
        self._target = target
        self._guard = guard
        self._metadata = tuple(target.delivery.headers.items())
        self._timeout = float(target.delivery.timeout)
        self._current: _Channel | None = None
        self._resolved_at = float("-inf")
        self._resolving = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, event: Event, trace: str = "") -> int:
        channel = await self._channel()
        request = mcp_pb2.IngestEventRequest(**_members(event))
        try:
            answer = await channel.one(request, metadata=self._traced(trace), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:  # the answer to an earlier attempt was lost
                return STATUS[grpc.StatusCode.ALREADY_EXISTS]
            raise self._verdict(error) from None
        if not answer.success and answer.message:
            raise Failed(500, f"the target answered OK, but: {answer.message}")
        return 200

    async def send_batch(self, events: Sequence[Event], trace: str = "") -> list[int | Failed | Refused]:
        channel = await self._channel()
        outcomes: list[int | Failed | Refused] = []
        for batch in _calls([mcp_pb2.Event(**_members(event)) for event in events]):
            try:
                outcomes += await self._send(channel, batch, trace)
            except (Failed, Refused) as error:
                if not outcomes:
                    raise
                failed = error if isinstance(error, Failed) else Failed(error.status, error.detail)
                return outcomes + [failed] * (len(events) - len(outcomes))
        return outcomes

    async def check(self) -> None:
        """By the Health Checking Protocol (grpc, doc/health-checking.md), for the server as a whole. One without it is well: it
        answered, and clients are told to take it so (gRFC A17)."""
        channel = await self._channel()
        request = health_pb2.HealthCheckRequest()
        try:
            answer = await channel.check(request, metadata=self._metadata, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return
            found = self._verdict(error)
            raise Failed(found.status, found.detail) from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Failed(
                503, f"the health check was answered with {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
            )

    async def aclose(self) -> None:
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._current is not None:
            await self._current.close()

    def _traced(self, trace: str) -> tuple[tuple[str, str], ...]:
        return (*self._metadata, ("traceparent", trace)) if trace else self._metadata

    async def _send(self, channel: _Channel, batch: list[mcp_pb2.Event], trace: str) -> list[int | Failed | Refused]:
        try:
            answer = await channel.many(mcp_pb2.EventBatch(events=batch), metadata=self._traced(trace), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise self._verdict(error) from None
        if len(answer.results) != len(batch):
            raise Failed(500, f"the target answered with {len(answer.results)} results for {len(batch)} events")
        return [_outcome(result) for result in answer.results]

    def _verdict(self, error: grpc.aio.AioRpcError) -> Failed | Refused:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._resolved_at = float("-inf")  # it may have moved
        return verdict(error)

    async def _channel(self) -> _Channel:
        """The channel to the addresses that the name has now."""
        found = self._believed()
        if found is None:
            async with self._resolving:
                found = self._believed() or await self._resolve()
        return found

    def _believed(self) -> _Channel | None:
        return self._current if time.monotonic() - self._resolved_at < DNS_SECONDS else None

    async def _resolve(self) -> _Channel:
        host, port = self._target.address
        try:
            name = addresses(await self._guard.resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise Failed(0, f"{host} cannot be resolved: {error}") from None
        self._resolved_at = time.monotonic()
        old = self._current
        if old is not None and old.name == name:
            return old
        self._current = _Channel(name, self._target)
        if old is not None:
            task = asyncio.create_task(old.close(self._timeout))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._current


def addresses(found: Sequence[AddrInfo]) -> str:
    """What a host resolved to as a gRPC name (grpc, doc/naming.md), which has room for one family: that of the first address."""
    family = found[0][0]
    hosts = dict.fromkeys(str(each[4][0]) for each in found if each[0] == family)
    port = found[0][4][1]
    if family == socket.AF_INET6:
        return "ipv6:" + ",".join(f"[{host}]:{port}" for host in hosts)
    return "ipv4:" + ",".join(f"{host}:{port}" for host in hosts)


def verdict(error: grpc.aio.AioRpcError) -> Failed | Refused:
    """What a call that ended with an error means."""
    code, text = error.code(), error.details() or ""
    detail = f"{code.name}: {text}" if text else code.name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:  # gRPC's own words, on either side
        return Refused(413, detail)
    if code in REFUSALS:
        return Refused(STATUS[code], detail)
    return Failed(STATUS.get(code, 500), detail, retry_info(error.trailing_metadata() or ()))


def retry_info(trailers: Iterable[tuple[str, str | bytes]]) -> float:
    """Seconds that a ``google.rpc.RetryInfo`` in the status details asks for (google/rpc/status.proto, error_details.proto); 0
    without one. The few fields of interest are read by their numbers: the generated code would be a dependency more."""
    for key, value in trailers:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                for detail in map(any_pb2.Any.FromString, _fields(value, 3)):
                    if detail.type_url.endswith("/google.rpc.RetryInfo"):
                        delays = [Duration.FromString(delay).ToNanoseconds() / 1e9 for delay in _fields(detail.value, 1)]
                        return max(0.0, *delays)
            except DecodeError:
                return 0.0
    return 0.0


def _fields(message: bytes, number: int) -> list[bytes]:
    """The values of a length-delimited field."""
    found = UnknownFieldSet(Empty.FromString(message))
    return [
        field.data
        for field in map(found.__getitem__, range(len(found)))
        if field.field_number == number and isinstance(field.data, bytes)
    ]


def _members(event: Event) -> dict[str, Any]:
    """An event as the proto has it."""
    return {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "source": event.source,
        "timestamp": unix_seconds(event),
        "data": payload_text(event.data).decode(),
        "metadata": event.metadata,
    }


def _outcome(result: mcp_pb2.EventResult) -> int | Failed | Refused:
    if result.status == "accepted":
        return 200
    detail = ": ".join(text for text in (result.status, result.code, result.message) if text)
    if result.status == "rejected":
        return Refused(422, detail)
    return Failed(503, detail or "the target answered with a result without a status")


def _calls(messages: Sequence[mcp_pb2.Event]) -> Iterator[list[mcp_pb2.Event]]:
    """Split what is too large for one call."""
    batch: list[mcp_pb2.Event] = []
    size = 0
    for message in messages:
        more = message.ByteSize()
        if batch and size + more > CALL_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += more
    yield batch


def _credentials(target: GrpcTarget) -> grpc.ChannelCredentials:
    tls = target.delivery.tls
    if tls is None:
        return grpc.ssl_channel_credentials()
    ca, key, chain = (text.encode() or None for text in (tls.ca, tls.key, tls.certificate))
    return grpc.ssl_channel_credentials(ca, key, chain)
