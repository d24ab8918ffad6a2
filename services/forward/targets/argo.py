"""Target type ``argo-events``: a webhook EventSource, or the EventBus itself.

What Sensors take from a bus was checked against argoproj/argo-events: pkg/eventsources/eventing.go makes the event,
pkg/eventbus/jetstream/eventsource/source_conn.go publishes it, pkg/eventbus/jetstream/sensor/trigger_conn.go reads it. It is a
CloudEvent 1.0 in JSON on ``default.<event source>.<event name>`` of the stream ``default``. ``source`` and ``subject`` must be
these two names: by them a Sensor finds its dependency. ``datacontenttype`` is application/json; the data, being bytes to the
SDK, stands in ``data_base64``. A Sensor drops an ``id`` that it has seen lately.
"""

from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.forward import cloudevents
from services.forward.guard import Guard
from services.forward.targets.http import Http, open_http
from services.forward.targets.nats import Link, NatsMessage, linked, message_id, together
from services.forward.verdict import Failed, Refused
from tas_mcp.messages import Event, encode, webhook_id
from tas_mcp.targets import ArgoTarget, Bearer, HttpConfig, HttpTarget


@asynccontextmanager
async def open_argo(target: ArgoTarget, guard: Guard) -> AsyncIterator["Http | Bus"]:
    """Open a sender; it connects with the first delivery, or in the background."""
    config = target.delivery
    if target.on_bus:
        login = {"user": config.user, "password": config.password, "token": config.token}
        async with linked(target.endpoint, login, config.tls, guard, jetstream=True) as link:
            yield Bus(target, link)
        return
    bearer = Bearer(token=config.token) if config.token else None
    http = HttpConfig(timeout=config.timeout, format=config.format, authentication=bearer, tls=config.tls)
    async with open_http(HttpTarget(id=target.id, endpoint=target.endpoint, config=http), guard) as sender:
        yield sender


class Bus:
    """Publishes on an EventBus in the name of one event of an EventSource."""

    def __init__(self, target: ArgoTarget, link: Link) -> None:
        config = target.delivery
        self._target_id = target.id
        self._names = {"source": config.event_source, "subject": config.event_name}
        self._subject = f"default.{config.event_source}.{config.event_name}"
        self._link = link

    async def send(self, event: Event, trace: str = "") -> int:
        return await self._link.send(self._message(event, trace, cloudevents.payload(event), cloudevents.data_type(event)))

    async def send_text(self, event: Event, text: str, content_type: str | None, trace: str = "") -> int:
        return await self._link.send(self._message(event, trace, text.encode(), content_type or cloudevents.DATA))

    async def send_batch(self, events: Sequence[Event], trace: str = "") -> list[int | Failed | Refused]:
        return await together([self.send(event, trace) for event in events])

    def _message(self, event: Event, trace: str, payload: bytes, content_type: str) -> NatsMessage:
        """The id is that of the delivery, as event ids are unique within their source only, and here all have one source. The
        event's own go as the extensions ``eventid`` and ``eventsource``."""
        body = {
            **cloudevents.attributes(event),
            **self._names,
            "id": webhook_id(event),
            "datacontenttype": content_type,
            "eventid": event.event_id,
            "eventsource": event.source,
            "data_base64": b64encode(payload).decode(),
        }
        headers = {"traceparent": trace} if trace else {}
        return NatsMessage(self._subject, encode(body), headers, message_id(event, self._target_id))
