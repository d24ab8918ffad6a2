"""Documents of Kafka targets."""

from typing import Any

import pytest

from tas_mcp.errors import Rejected
from tas_mcp.targets import KafkaTarget, check, decode, encode, masked


def document(endpoint: str = "kafka://a.example:9092", topic: str = "orders", **config: Any) -> dict[str, Any]:
    return {"id": "orders", "type": "kafka", "endpoint": endpoint, "config": {"topic": topic, **config}}


@pytest.mark.parametrize(
    ("endpoint", "brokers"),
    [
        ("kafka://a.example:9092", [("a.example", 9092)]),
        ("kafka://a_1:1,[::1]:2,10.0.0.1:65535", [("a_1", 1), ("::1", 2), ("10.0.0.1", 65535)]),
    ],
)
def test_endpoints(endpoint: str, brokers: list[tuple[str, int]]) -> None:
    target, _ = check(document(endpoint, sasl={"username": "jo", "password": "secret"}, tls={}))
    assert isinstance(target, KafkaTarget)
    assert target.brokers == brokers
    assert decode(encode(target)) == target


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        *(
            (document(endpoint), "/endpoint")
            for endpoint in """
            a:9092 kafka:// kafka://a kafka://a:0 kafka://a:65536 kafka://a:9092, kafka://,a:1 kafka://a:9092/topic kafka://u:p@a:1
            kafka://[zz]:1 http://a:9092 kafka://é:1
            """.split()
        ),
        *((document(topic=topic), "/config/topic") for topic in ("", ".", "..", "a b", "a/b", "é", "x" * 250)),
        ({"id": "a", "type": "kafka", "endpoint": "kafka://a:1"}, "/config"),
        ({"id": "a", "type": "kafka", "endpoint": "kafka://a:1", "config": {}}, "/config/topic"),
        (document(key="{{ event.data"), "/config/key"),
        (document(topic="a-{% include 'x' %}"), "/config/topic"),
        (document(compression="brotli"), "/config/compression"),
        (document(sasl={"username": "jo"}), "/config/sasl/password"),
        (document(sasl={"username": "jo", "password": "x", "mechanism": "GSSAPI"}), "/config/sasl/mechanism"),
        (document(tls={"key": "x", "certificate": "x"}), "/config/tls/certificate"),
        (document(headers={"webhook-id": "x"}), "/config/headers/webhook-id"),
        (document(headers={"CE_id": "x"}), "/config/headers/CE_id"),
    ],
)
def test_what_is_wrong_and_where(given: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Rejected) as caught:
        check(given)
    assert caught.value.flaws[0].pointer == pointer


def test_secrets_are_masked() -> None:
    target, _ = check(document(sasl={"username": "jo", "password": "0123456789abcdef"}, headers={"X-Api-Key": "short"}))
    shown = masked(target)["config"]
    assert (shown["sasl"]["password"], shown["sasl"]["username"], shown["headers"]) == ("***cdef", "jo", {"X-Api-Key": "***"})
