"""Target types: one file each, which sends one delivery and says how it went. What is common to all is the lane's.

To add a type: its document in ``tas_mcp.targets``, a file here with its ``open_*`` function, and a case in ``open_sender``.
"""

from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, Protocol, cast, runtime_checkable

from services.forward.guard import Guard
from services.forward.targets.argo import open_argo
from services.forward.targets.http import open_http
from services.forward.targets.nats import open_nats
from services.forward.verdict import Failed, Refused
from tas_mcp.messages import Event
from tas_mcp.targets import AnyTarget, ArgoTarget, GrpcTarget, KafkaTarget, NatsTarget


class Sender(Protocol):
    """A live way to one destination."""

    async def send(self, event: Event, trace: str = "") -> int:
        """Deliver once, with the ``traceparent`` where there is one; returning means delivered. The status, here and in what is
        raised, speaks HTTP whatever the type: 2xx delivered, 429 too much, other 4xx refused, 5xx failing, 0 no answer.

        Safe to call concurrently, and to cancel: what was begun is then given up or comes to nothing. Must not retry, time out,
        log or count: the lane does, for every type.

        Raises:
            Refused: it never will be.
            Failed: try again.
        """
        ...


@runtime_checkable
class TextSender(Sender, Protocol):
    """A sender that can deliver a text that a transform's template wrote, instead of the event."""

    async def send_text(self, event: Event, text: str, content_type: str | None, trace: str = "") -> int:
        """Deliver the text as it stands, as ``content_type`` (None: what the target sends by default), under the event's
        identity. As ``send`` in all else."""
        ...


@runtime_checkable
class BatchSender(Sender, Protocol):
    """A sender that can deliver many at once for less."""

    async def send_batch(self, events: Sequence[Event], trace: str = "") -> list[int | Failed | Refused]:
        """Deliver each once; what came of it, in the order given. As ``send`` in all else.

        Raises:
            Refused: the batch as such: each may still be taken alone.
            Failed: all of them.
        """
        ...


@runtime_checkable
class CheckedSender(Sender, Protocol):
    """A sender that can ask its destination whether it is well."""

    async def check(self) -> None:
        """Ask once; returning means that it is well. As ``send`` in all else.

        Raises:
            Failed: it is not, or did not say.
        """
        ...


def open_sender(target: AnyTarget, guard: Guard) -> AbstractAsyncContextManager[Sender]:
    """Open the sender for a target's type; leaving closes its connections. A destination that is away is told by ``send``. Every
    host that the target names is resolved by the ``guard``, and what it gave is connected to."""
    match target:  # a type's library is loaded with its first target: that takes a tenth of a second, and 20 MiB
        case GrpcTarget():
            from services.forward.targets.grpc import open_grpc

            return open_grpc(target, guard)
        case KafkaTarget():
            from services.forward.targets.kafka import open_kafka

            return open_kafka(target, guard)
        case ArgoTarget():
            return open_argo(target, guard)
        case NatsTarget():
            return open_nats(target, guard)
        case _:
            return open_http(target, guard)


def deliver(
    sender: Sender, event: Event, text: str | None, content_type: str | None, trace: str = ""
) -> Coroutine[Any, Any, int]:
    """Send the text that a template wrote, where there is one, else the event: see ``Sender.send``, which is to be awaited.

    Raises:
        Refused: the target's type sends no texts.
    """
    if text is None:
        return sender.send(event, trace)
    if _takes_text(type(sender)):
        return cast(TextSender, sender).send_text(event, text, content_type, trace)
    raise Refused(400, "the text of a template was queued for the target, whose type sends events")


@lru_cache
def _takes_text(kind: type[Sender]) -> bool:
    """Looking at a protocol's members for each delivery would cost more than sending it."""
    return issubclass(kind, TextSender)
