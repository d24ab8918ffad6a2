"""Documents of gRPC targets."""

from typing import Any

import pytest

from tas_mcp.errors import Rejected
from tas_mcp.targets import GrpcTarget, Tls, check, decode, encode, masked
from tests.certificates import Authority


def document(endpoint: str = "grpc://orders.example:50051", **config: Any) -> dict[str, Any]:
    return {"id": "orders", "type": "grpc", "endpoint": endpoint, "config": config}


@pytest.mark.parametrize(
    ("endpoint", "address", "secure"),
    [
        ("grpc://orders.example:50051", ("orders.example", 50051), False),
        ("grpcs://orders.example:443", ("orders.example", 443), True),
        ("dns:///orders_headless.default:1", ("orders_headless.default", 1), False),
        ("grpc://[::1]:65535", ("::1", 65535), False),
    ],
)
def test_endpoints(endpoint: str, address: tuple[str, int], secure: bool) -> None:
    target, _ = check(document(endpoint))
    assert isinstance(target, GrpcTarget)
    assert (target.address, target.secure) == (address, secure)
    assert decode(encode(target)) == target


@pytest.mark.parametrize(
    "endpoint",
    """
    orders.example:50051 http://orders.example:50051 grpc://orders.example grpc://orders.example:0 grpc://orders.example:65536
    grpc://orders.example:x grpc://:50051 grpc:///orders.example:50051 dns://orders.example:50051 dns://8.8.8.8/orders:50051
    grpc://user:pass@orders:50051 grpc://orders:50051/path grpc://a,b:50051 grpc://[zz]:50051 grpc://[::1:50051 grpc://::1:50051
    unix:///tmp/socket ipv4:127.0.0.1:50051 grpc://é.example:50051 grpc://a:²
    """.split(),
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(Rejected) as caught:
        check(document(endpoint))
    assert [flaw.pointer for flaw in caught.value.flaws] == ["/endpoint"]


@pytest.mark.parametrize(
    ("config", "pointer"),
    [
        ({"headers": {"X-Team": "a"}}, "/config/headers/X-Team"),
        ({"headers": {"trace-bin": "a"}}, "/config/headers/trace-bin"),
        ({"headers": {"grpc-timeout": "a"}}, "/config/headers/grpc-timeout"),
        ({"headers": {"a": "é"}}, "/config/headers/a"),
        ({"tls": {}}, "/config/tls"),
        ({"format": "tas"}, "/config/format"),
        ({"timeout": "0s"}, "/config/timeout"),
    ],
)
def test_what_is_wrong_in_its_configuration(config: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Rejected) as caught:
        check(document(**config))
    assert [flaw.pointer for flaw in caught.value.flaws] == [pointer]


def test_certificates_are_checked_for_their_form() -> None:
    authority = Authority()
    pair = authority.issue()
    assert Tls(ca=authority.certificate * 2, certificate=pair.certificate, key=pair.key).flaws() == []
    pointers = [flaw.pointer for flaw in Tls(ca=pair.key, certificate="x", key=pair.certificate).flaws()]
    assert pointers == ["/config/tls/ca", "/config/tls/certificate", "/config/tls/key"]
    assert [flaw.pointer for flaw in Tls(key=pair.key).flaws()] == ["/config/tls"]
    broken = authority.certificate.replace("\n", "\n=", 2)
    assert [flaw.pointer for flaw in Tls(ca=broken).flaws()] == ["/config/tls/ca"]


@pytest.mark.parametrize("name", ["a.example", "10.0.0.1", "fd00::1", "x" * 253])
def test_the_name_of_a_server(name: str) -> None:
    assert Tls(server_name=name).flaws() == []


@pytest.mark.parametrize("name", ["a b", "a/b", "*.example", "a\r\nb", "https://a", "x" * 254])
def test_what_is_no_name_of_a_server(name: str) -> None:
    assert [flaw.pointer for flaw in Tls(server_name=name).flaws()] == ["/config/tls/server_name"]


def test_the_oldest_version_cannot_be_chosen() -> None:
    with pytest.raises(Rejected) as caught:
        check(document("grpcs://a:1", tls={"min_version": "1.3"}))
    assert [flaw.pointer for flaw in caught.value.flaws] == ["/config/tls/min_version"]


def test_the_key_and_the_credentials_are_masked() -> None:
    pair = Authority().issue()
    target, _ = check(document("grpcs://a:1", headers={"authorization": "Bearer 0123456789"}, tls=pair._asdict()))
    shown = masked(target)
    assert shown["config"]["headers"] == {"authorization": "***6789"}
    assert shown["config"]["tls"]["key"].startswith("***")
    assert shown["config"]["tls"]["certificate"] == pair.certificate
