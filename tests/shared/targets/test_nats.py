"""Documents of NATS targets."""

from typing import Any

import pytest

from tas_mcp.errors import Rejected
from tas_mcp.targets import NatsTarget, check, decode, encode, masked
from tas_mcp.targets.nats import servers
from tests.nats_keys import ACCOUNT, USER, credentials

CREDS = credentials(ACCOUNT, USER)


def document(endpoint: str = "nats://a.example:4222", subject: str = "orders.new", **config: Any) -> dict[str, Any]:
    return {"id": "orders", "type": "nats", "endpoint": endpoint, "config": {"subject": subject, **config}}


@pytest.mark.parametrize(
    ("endpoint", "found"),
    [("nats://a.example:4222", [("a.example", 4222)]), ("tls://[::1]:1,10.0.0.1:65535", [("::1", 1), ("10.0.0.1", 65535)])],
)
def test_endpoints(endpoint: str, found: list[tuple[str, int]]) -> None:
    target, _ = check(document(endpoint, user="jo", password="secret"))
    assert isinstance(target, NatsTarget)
    assert servers(target.endpoint) == found
    assert decode(encode(target)) == target


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        *(
            (document(endpoint), "/endpoint")
            for endpoint in """
            a:4222 nats:// nats://a nats://a:0 nats://a:65536 nats://a:1, nats://a:1/x nats://u:p@a:1 http://a:1 ws://a:1
            """.split()
        ),
        *(
            (document(subject=subject), "/config/subject")
            for subject in (
                "",
                ".",
                "a.",
                ".a",
                "a..b",
                "a.*",
                ">",
                "a b",
                "a\tb",
                "a\r\nPUB b",
                "$JS.API.STREAM.DELETE.S",
                "x" * 1025,
            )
        ),
        ({"id": "a", "type": "nats", "endpoint": "nats://a:1"}, "/config"),
        (document(subject="a.{{ event.data | nosuch }}"), "/config/subject"),
        (document(user="jo"), "/config/user"),
        (document(password="x"), "/config/user"),
        (document(user="jo", password="x", token="y"), "/config/token"),
        (document(nkey="SUAM"), "/config/nkey"),
        (document(nkey=USER.public), "/config/nkey"),
        (document(nkey=ACCOUNT.seed), "/config/nkey"),
        (document(nkey=USER.seed, user="jo", password="x"), "/config/nkey"),
        (document(nkey=USER.seed, token="x"), "/config/nkey"),
        (document(creds=CREDS, nkey=USER.seed), "/config/creds"),
        (document(creds=USER.seed), "/config/creds"),
        (document(creds=CREDS.replace("BEGIN NATS USER JWT", "JWT")), "/config/creds"),
        (document(creds=CREDS.replace(USER.seed, "")), "/config/creds"),
        (document(creds=CREDS.partition("\n\n")[0]), "/config/creds"),
        (document(tls={"ca": "x"}), "/config/tls/ca"),
        (document(headers={"Nats-Msg-Id": "x"}), "/config/headers/Nats-Msg-Id"),
        (document(headers={"ce-id": "x"}), "/config/headers/ce-id"),
        (document(headers={"a b": "x"}), "/config/headers/a b"),
        (document(headers={"a": "x\r\ny"}), "/config/headers/a"),
    ],
)
def test_what_is_wrong_and_where(given: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Rejected) as caught:
        check(given)
    assert [flaw.pointer for flaw in caught.value.flaws] == [pointer]


def test_secrets_are_masked() -> None:
    target, _ = check(document(user="jo", password="0123456789abcdef", headers={"Authorization": "short"}))
    shown = masked(target)["config"]
    assert (shown["password"], shown["user"], shown["headers"]) == ("***cdef", "jo", {"Authorization": "***"})
    shown = masked(check(document(token="0123456789abcdef"))[0])["config"]
    assert shown["token"] == "***cdef"
    shown = masked(check(document(nkey=USER.seed))[0])["config"]
    assert shown["nkey"] == "***" + USER.seed[-4:]
    shown = masked(check(document(creds=CREDS))[0])["config"]
    assert shown["creds"] == "***---\n"
