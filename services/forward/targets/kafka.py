"""Target type ``kafka``: records produced to one topic, each acknowledged by all replicas in sync.

aiokafka's producer can wedge, or wait for ever (its issues 517, 759, 1017, 1101). So nothing here relies on its recovery: after a
send that failed, or was given up unanswered, the next one begins with a new producer. Idempotence is off: with it a batch never
expires, and some troubles of a broker never end. A record may so be there twice, which its ``webhook-id`` tells.

The guard looks at the brokers that the target names, and at those that they name, before each connection. Without TLS the address
that it gave is the one connected to. With TLS it is the name, which aiokafka resolves again: whoever answers then must hold a
certificate for it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup

from services.forward import cloudevents
from services.forward.formats import FORMATS
from services.forward.guard import Guard
from services.forward.tls import client_context
from services.forward.verdict import Failed, Refused
from tas_mcp.messages import Event, webhook_id
from tas_mcp.targets import KafkaTarget
from tas_mcp.targets.kafka import is_topic
from tas_mcp.targets.text import compile_text, rendered

RECORD_BYTES = 64 * 1024 * 1024
"""No limit of ours: the brokers have theirs, and say so."""
BATCH_BYTES = 256 * 1024
"""Of a batch for one partition. Brokers take 1 MiB unless told otherwise."""
CLOSE_SECONDS = 2.0
"""How long closing waits for what is still to be acknowledged."""
REFUSALS = {
    errors.InvalidTopicError: 400,
    errors.InvalidTimestampError: 400,
    errors.PolicyViolationError: 400,
    errors.UnsupportedForMessageFormatError: 400,
    errors.TopicAuthorizationFailedError: 403,
    errors.ClusterAuthorizationFailedError: 403,
    errors.MessageSizeTooLargeError: 413,
    errors.RecordTooLargeError: 413,
    errors.RecordListTooLargeError: 413,
}
"""What time does not heal, and its status in HTTP's terms."""


class _Record(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


_Starting = asyncio.Task[AIOKafkaProducer]


def open_kafka(target: KafkaTarget, guard: Guard) -> aclosing["Kafka"]:
    """Open a sender: it connects with the first delivery."""
    return aclosing(Kafka(target, guard))


class Kafka:
    """Sends to the topics of one cluster."""

    def __init__(self, target: KafkaTarget, guard: Guard) -> None:
        config = target.delivery
        self._brokers = target.brokers
        self._guard = guard
        self._topic = compile_text(config.topic)
        self._key = compile_text(config.key) if config.key else None
        self._format = config.format
        self._headers = [(name, value.encode()) for name, value in config.headers.items()]
        self._secure = config.tls is not None
        self._options = _options(target)
        self._timeout = float(config.timeout)
        self._current: _Starting | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def send(self, event: Event, trace: str = "") -> int:
        return await self._send_one(self._record(event, trace))

    async def send_text(self, event: Event, text: str, content_type: str | None, trace: str = "") -> int:
        return await self._send_one(self._record(event, trace, text, content_type))

    async def send_batch(self, events: Sequence[Event], trace: str = "") -> list[int | Failed | Refused]:
        records = [self._tried(event, trace) for event in events]
        sent = iter(await self._send([each for each in records if isinstance(each, _Record)]))
        return [next(sent) if isinstance(each, _Record) else each for each in records]

    async def check(self) -> None:
        """Have the brokers tell what they hold: a request for metadata."""
        current = self._starting()
        try:
            producer = await asyncio.shield(current)
            told = await producer.client.force_metadata_update()
        except (errors.KafkaError, OSError, UnicodeError) as error:
            self._retire(current)
            found = _verdict(error)
            raise Failed(found.status, found.detail) from None
        except Refused as refused:
            self._retire(current)
            raise Failed(refused.status, refused.detail) from None
        except asyncio.CancelledError:
            self._retire(current)
            raise
        if not told:
            self._retire(current)
            raise Failed(0, "no broker answered a request for metadata")

    async def aclose(self) -> None:
        if self._current is not None:
            self._retire(self._current)
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_SECONDS)
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _send_one(self, record: _Record) -> int:
        [outcome] = await self._send((record,))
        if isinstance(outcome, int):
            return outcome
        raise outcome

    def _tried(self, event: Event, trace: str) -> _Record | Refused:
        try:
            return self._record(event, trace)
        except Refused as error:
            return error

    async def _send(self, records: Sequence[_Record]) -> list[int | Failed | Refused]:
        current = self._starting()
        try:
            producer = await asyncio.shield(current)
            outcomes = await self._produce(producer, records)
        except (errors.KafkaError, OSError, UnicodeError) as error:
            self._retire(current)
            raise _verdict(error) from None
        except (asyncio.CancelledError, Failed, Refused):  # unanswered: it may have wedged; or not let through
            self._retire(current)
            raise
        if any(isinstance(outcome, Failed) for outcome in outcomes):
            self._retire(current)
        return outcomes

    def _starting(self) -> _Starting:
        if self._current is None:
            self._current = asyncio.create_task(self._start())
        return self._current

    async def _produce(self, producer: AIOKafkaProducer, records: Sequence[_Record]) -> list[int | Failed | Refused]:
        """Hand all to the producer, then wait for what comes of each. Where one meets trouble that is not its own, those after it
        are not tried: each would wait for the same."""
        begun: list[asyncio.Future[Any]] = []
        for record in records:
            try:
                begun.append(await producer.send(record.topic, record.value, record.key, headers=record.headers))
            except errors.KafkaError as error:
                begun.append(asyncio.get_running_loop().create_future())
                begun[-1].set_exception(error)
                if isinstance(_verdict(error), Failed):
                    break
        ended = await asyncio.gather(*begun, return_exceptions=True)
        outcomes = [_verdict(each) if isinstance(each, BaseException) else 200 for each in ended]
        return outcomes + outcomes[-1:] * (len(records) - len(outcomes))

    def _record(self, event: Event, trace: str, text: str | None = None, content_type: str | None = None) -> _Record:
        """The event in its format, or a text instead of it. The forms of a CloudEvent are those of its Kafka binding 1.0.2.

        Raises:
            Refused: a template does not give a topic or a key.
        """
        try:
            topic = rendered(self._topic, event, is_topic, "config.topic")
            key = rendered(self._key, event, bool, "config.key").encode() if self._key else None
        except ValueError as error:
            raise Refused(400, str(error)) from None
        own = {"content-type": content_type or "application/json"}
        if self._format == "cloudevents-binary":
            attributes = cloudevents.texts(event)
            own["content-type"] = content_type or attributes["datacontenttype"]
            own.update((f"ce_{name}", value) for name, value in attributes.items() if name != "datacontenttype")
            value = cloudevents.payload(event) if text is None else text.encode()
        elif text is not None:
            value = text.encode()
        elif self._format == "cloudevents":
            own = {"content-type": cloudevents.STRUCTURED}
            value = cloudevents.structured(event)
        else:
            value = FORMATS[self._format](event)
        own["webhook-id"] = webhook_id(event)
        if trace:
            own["traceparent"] = trace
        return _Record(topic, key, value, [*((name, value.encode()) for name, value in own.items()), *self._headers])

    async def _start(self) -> AIOKafkaProducer:
        servers: list[str] = []
        for host, port in self._brokers:
            found = [str(each[4][0]) for each in await self._guard.resolve(host, port)]
            servers += [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in ([host] if self._secure else found)]
        producer = AIOKafkaProducer(bootstrap_servers=servers, **self._options)
        _watch(producer.client, self._guard, pin=not self._secure)
        try:
            await producer.start()
            for broker in producer.client.cluster.brokers():
                await self._guard.resolve(broker.host, broker.port)
        except BaseException:
            await _cut(producer)
            raise
        return producer

    def _retire(self, producer: _Starting) -> None:
        """Use it no more. What others have in flight on it is waited for, as long as their attempts may last."""
        if self._current is not producer:
            return
        self._current = None
        task = asyncio.create_task(_end(producer, self._timeout))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _watch(client: AIOKafkaClient, guard: Guard, *, pin: bool) -> None:
    """Have the guard look at each broker before it is connected to: they name others at any time. ``pin``: connect to the
    address that it gave. One that it does not let through is away to the client."""
    connect = client._get_conn

    async def watched(node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        known = client._conns.get((node_id, group))
        broker = client.cluster.broker_metadata(node_id)
        if broker is not None and (known is None or not known.connected()):
            try:
                found = await guard.resolve(broker.host, broker.port)
            except (Failed, Refused, OSError, UnicodeError):
                client.force_metadata_update()
                return None
            if pin:
                client.cluster._brokers[node_id] = broker._replace(host=str(found[0][4][0]))
        return await connect(node_id, group=group, no_hint=no_hint)

    client._get_conn = watched


async def _end(starting: _Starting, seconds: float) -> None:
    """Stop a producer in good order within a time; then, or when cancelled, cut it off."""
    starting.cancel()
    await asyncio.wait((starting,))
    if starting.cancelled() or starting.exception():
        return
    producer = starting.result()
    try:
        with suppress(TimeoutError, errors.KafkaError, OSError):
            async with asyncio.timeout(seconds):
                await producer.stop()
    finally:
        await _cut(producer)


async def _cut(producer: AIOKafkaProducer) -> None:
    """What ``stop`` does, waiting for nobody: whatever is in flight has failed."""
    producer._closed = True
    producer._message_accumulator.fail_all(errors.ProducerClosed())
    await producer.client.close()
    await producer._sender.close()


def _verdict(error: BaseException) -> Failed | Refused:
    detail = f"{type(error).__name__}: {error}"
    for kind, status in REFUSALS.items():
        if isinstance(error, kind):
            return Refused(status, detail)
    return Failed(503 if isinstance(error, errors.BrokerResponseError) else 0, detail)


def _options(target: KafkaTarget) -> dict[str, Any]:
    config = target.delivery
    sasl, secure = config.sasl, config.tls is not None
    protocol = ("SASL_SSL" if secure else "SASL_PLAINTEXT") if sasl else ("SSL" if secure else "PLAINTEXT")
    return {
        "client_id": "tas-mcp",
        "acks": "all",
        "enable_idempotence": False,
        "compression_type": None if config.compression == "none" else config.compression,
        "max_batch_size": BATCH_BYTES,
        "max_request_size": RECORD_BYTES,
        "request_timeout_ms": max(1000, int(config.timeout * 750)),  # a batch that was not taken expires before its attempts
        "security_protocol": protocol,
        "ssl_context": client_context(config.tls) if secure else None,
        **(
            {"sasl_mechanism": sasl.mechanism, "sasl_plain_username": sasl.username, "sasl_plain_password": sasl.password}
            if sasl
            else {}
        ),
    }
