"""Documents of Argo Events targets."""

from typing import Any

import pytest

from tas_mcp.errors import Rejected
from tas_mcp.targets import ArgoTarget, check, decode, encode, masked

BUS = "nats://eventbus-default-js-svc.argo-events:4222"


def document(endpoint: str = "https://argo.example/orders", **config: Any) -> dict[str, Any]:
    return {"id": "orders", "type": "argo-events", "endpoint": endpoint, "config": config}


def bus(**config: Any) -> dict[str, Any]:
    return document(BUS, **{"event_source": "tas", "event_name": "orders", **config})


@pytest.mark.parametrize(("given", "on_bus"), [(document(token="x"), False), (bus(user="jo", password="x"), True)])
def test_both_forms(given: dict[str, Any], on_bus: bool) -> None:
    target, _ = check(given)
    assert isinstance(target, ArgoTarget)
    assert target.on_bus == on_bus
    assert decode(encode(target)) == target


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        (document("argo.example/orders"), "/endpoint"),
        (document("nats://a", event_source="a", event_name="b"), "/endpoint"),
        (document(event_source="a"), "/config/event_source"),
        (document(user="jo"), "/config/user"),
        (document(token="a\nb"), "/config/token"),
        (document("http://a/", tls={}), "/config/tls"),
        (document(format="standard"), "/config/format"),
        (bus(event_source=""), "/config/event_source"),
        (bus(event_name="a.b"), "/config/event_name"),
        (bus(event_name="*"), "/config/event_name"),
        (bus(user="jo"), "/config/user"),
    ],
)
def test_what_is_wrong_and_where(given: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Rejected) as caught:
        check(given)
    assert [flaw.pointer for flaw in caught.value.flaws] == [pointer]


def test_secrets_are_masked() -> None:
    shown = masked(check(bus(user="jo", password="0123456789abcdef"))[0])["config"]
    assert (shown["user"], shown["password"]) == ("jo", "***cdef")
    assert masked(check(document(token="short"))[0])["config"]["token"] == "***"
