"""An order, and short ways to transform it."""

from typing import Any

import msgspec
from msgspec import Raw

from tas_mcp.messages import Event
from tas_mcp.routing import View
from tas_mcp.routing.transforms import Output, Transform, TransformError, TransformFailed, compile_transform

ACCEPTED = 1_700_000_000_123_456_789  # 2023-11-14T22:13:20.123Z
ORDER: dict[str, Any] = {
    "amount": 150,
    "user": {"name": "Ann", "vip": True},
    "items": [{"sku": "a", "n": 2}, {"sku": "b", "n": 3}],
    "none": [],
    "null": None,
}


def an_order(data: Any = None, **changes: Any) -> Event:
    raw = Raw(msgspec.json.encode(ORDER if data is None else data))
    given = {"event_id": "e1", "event_type": "order.created", "source": "shop", "timestamp": 5, "metadata": {"k": "v"}, **changes}
    return Event(accepted_at=ACCEPTED, data=raw, **given)


def transformed(event: Event | None = None, **transform: Any) -> Output:
    return compile_transform(Transform(**transform))(View(event or an_order()))


def data(event: Event | None = None, **transform: Any) -> Any:
    """The data that comes out."""
    return msgspec.json.decode(transformed(event, **transform).event.data)


def failure(event: Event | None = None, **transform: Any) -> str:
    """Why it failed."""
    try:
        output = transformed(event, **transform)
    except TransformFailed as error:
        return str(error)
    raise AssertionError(f"it came out: {output}")


def flaws(**transform: Any) -> dict[str, str]:
    """What is wrong, by pointer."""
    try:
        compile_transform(Transform(**transform))
    except TransformError as error:
        return {flaw.pointer: flaw.detail for flaw in error.flaws}
    return {}
