"""``mcp.v1.MCPService``: its methods, by name."""

import asyncio
import time

import grpc

from services.ingest.grpc import answers
from services.ingest.grpc.batches import Batch
from services.ingest.grpc.calls import Calls
from services.ingest.grpc.client import Client, Context
from services.ingest.grpc.events import decode, decode_event, read
from services.ingest.grpc.live import Live
from services.ingest.grpc.security import names
from services.ingest.grpc.state import State
from services.ingest.grpc.streams import EventStream, Inflow, IngestStream
from services.ingest.intake import Accepted, Counted, Intake
from services.ingest.rates import Addresses
from services.ingest.settings import Settings
from services.ingest.tail import Tail
from tas_mcp.auth import Authentication
from tas_mcp.errors import Rejected, TasError
from tas_mcp.messages import TRACEPARENT
from tas_mcp.v1 import mcp_pb2

SERVICE = mcp_pb2.DESCRIPTOR.services_by_name["MCPService"].full_name

Handlers = dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]


class Service:
    """Hands what comes to the intake. Messages are encoded and decoded here: what cannot be read is the client's error, and gRPC
    would call it ours."""

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        auth: Authentication,
        addresses: Addresses | None,
        tail: Tail,
        calls: Calls,
        state: State,
    ) -> None:
        self._intake = intake
        self._auth = auth
        self._addresses = addresses
        self._tail = tail
        self._calls = calls
        self._state = state
        self._max_events = settings.max_batch_events
        self._by_certificate = bool(settings.tls_callers)
        self._counted = Counted("grpc")

    def handlers(self) -> Handlers:
        unary, streaming = self._calls.unary, self._calls.streaming
        return {
            "IngestEvent": grpc.unary_unary_rpc_method_handler(unary(self._ingest_event)),
            "IngestBatch": grpc.unary_unary_rpc_method_handler(unary(self._ingest_batch)),
            "IngestStream": grpc.stream_stream_rpc_method_handler(streaming(self._ingest_stream)),
            "StreamEvents": grpc.unary_stream_rpc_method_handler(streaming(self._stream_events)),
            "EventStream": grpc.stream_stream_rpc_method_handler(streaming(self._event_stream)),
            "GetHealth": grpc.unary_unary_rpc_method_handler(unary(self._get_health)),
            "GetMetrics": grpc.unary_unary_rpc_method_handler(unary(self._get_metrics)),
        }

    def _client(self, context: Context) -> Client:
        return Client(context, self._auth, self._addresses, names(context) if self._by_certificate else ())

    async def _ingest_event(self, body: bytes, context: Context) -> bytes:
        client = self._client(context)
        caller = client.admit()
        request = decode_event(mcp_pb2.IngestEventRequest, body, self._intake.limits)
        future: asyncio.Future[Accepted | TasError] = asyncio.get_running_loop().create_future()

        def settle(answer: Accepted | TasError) -> None:
            if not future.done():  # done: the client left
                future.set_result(answer)

        trace = self._intake.trace(self._counted, client.traceparent)
        if trace is not None:
            context.set_trailing_metadata(((TRACEPARENT, trace.traceparent),))
        self._intake.submit(request, len(body), read, caller, self._counted, settle, trace=trace)
        answer = await future
        if isinstance(answer, TasError):
            raise answer
        return answers.stored(answer, time.time()).SerializeToString()

    async def _ingest_batch(self, body: bytes, context: Context) -> bytes:
        caller = self._client(context).admit()
        caller.require("events:write")
        batch = Batch(body, self._max_events)
        if not batch.events:
            raise Rejected("INVALID_EVENT", "the batch is empty")
        self._intake.admit(caller, len(batch.events), len(body))
        await self._intake.room()
        done = asyncio.Event()
        batch.submit(self._intake, caller, self._counted, done.set)
        await done.wait()
        return batch.ack()

    async def _ingest_stream(self, _: object, context: Context) -> None:
        client = self._client(context)
        client.admit().require("events:write")
        inflow = Inflow(self._intake, self._calls, client)
        await IngestStream(inflow, self._intake, self._counted, self._max_events).run(context)

    async def _event_stream(self, _: object, context: Context) -> None:
        client = self._client(context)
        caller = client.admit()
        caller.require("events:write")
        live = Live(self._tail, client, caller) if caller.may("events:read") else None
        inflow = Inflow(self._intake, self._calls, client)
        await EventStream(inflow, self._intake, self._counted, live).run(context)

    async def _stream_events(self, body: bytes, context: Context) -> None:
        client = self._client(context)
        await self._calls.while_open(Live(self._tail, client, client.admit()).stream(body, context))

    async def _get_health(self, body: bytes, _: Context) -> bytes:
        decode(mcp_pb2.HealthCheckRequest, body)
        return self._state.health().SerializeToString()

    async def _get_metrics(self, body: bytes, context: Context) -> bytes:
        self._client(context).admit()
        decode(mcp_pb2.MetricsRequest, body)
        return self._state.metrics().SerializeToString()
