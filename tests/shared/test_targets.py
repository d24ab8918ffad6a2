"""Target documents: what is valid, what is wrong and where, and secrets that nobody reads."""

import copy
import json
from typing import Any

import pytest

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.targets import Basic, HttpTarget, Removed, WebhookTarget, check, decode, encode, mask, masked, unmask

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


PEM = "-----BEGIN CERTIFICATE-----\nMDEyMzQ1Njc4OTAxMjM0NTY3ODk=\n-----END CERTIFICATE-----"
BEARER = {"type": "bearer", "token": "0123456789abcdef"}
OAUTH2 = {"type": "oauth2", "token_url": "https://id.example/token", "client_id": "me", "client_secret": "0123456789abcdef"}


def document(**changes: Any) -> dict[str, Any]:
    return {"id": "orders", "type": "webhook", "endpoint": "https://orders.example/hooks", **changes}


def config(**values: Any) -> dict[str, Any]:
    return document(config=values)


def pointers(given: Any) -> list[str]:
    with pytest.raises(Rejected) as caught:
        check(given)
    assert caught.value.code == "INVALID_TARGET"
    assert all(each.detail for each in caught.value.flaws)
    return [each.pointer for each in caught.value.flaws]


@pytest.mark.parametrize(
    "given",
    [
        document(),
        document(type="http"),
        document(id="ein ziel: äöü/." + "x" * 40),
        document(name=None, config=None, rules=None),
        document(enabled=False, paused=True, name="Orders"),
        document(endpoint="http://[::1]:8080/a?b=c"),
        config(timeout="5m", concurrency=1000, format="data", max_queue=1, overflow="drop", signing_secret=SECRET),
        config(timeout=5_000_000_000, retry={"schedule": []}),
        config(method="PATCH", query={"a": "b"}, format="cloudevents-binary", retry={"on": [409, "3xx"]}),
        config(signing_secret=[SECRET, "whsk_" + "A" * 43 + "="], format="standard", tls={}),
        config(authentication={"type": "none"}, headers={"Authorization": "x"}, format="cloudevents"),
        config(authentication={"type": "api_key", "in": "query", "name": "k", "key": "x"}, headers={"Ce-Id": "x"}),
        config(authentication=OAUTH2),
        config(retry={"schedule": ["1s"] * 50}, headers={"Authorization": "Bearer x", "X-Other": "é"}),
        document(rules=[{"id": "big", "conditions": [{"field": "data.amount", "operator": "gt", "value": 1}]}]),
        document(split_group="é" * 32, weight=0, split_key='data["user id"][0]'),
        document(split_group="a/b", weight=1_000_000, split_key="metadata.tenant"),
    ],
)
def test_valid_documents_survive_the_store(given: dict[str, Any]) -> None:
    target, _ = check(given)
    assert decode(encode(target)) == target


def test_defaults() -> None:
    target, rules = check(document())
    assert isinstance(target, WebhookTarget)
    assert (target.enabled, target.paused, target.delivery.concurrency, str(target.delivery.timeout)) == (True, False, 64, "15s")
    assert [str(wait) for wait in target.delivery.retry.schedule] == ["5s", "5m", "30m", "2h", "5h", "10h"]
    assert rules is not None


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ([], ""),
        ("x", ""),
        (document(id=""), "/id"),
        (document(id="x" * 65), "/id"),
        (document(id="é" * 33), "/id"),
        (document(id="a\nb"), "/id"),
        (document(id="_process"), "/id"),
        (document(id=5), "/id"),
        ({"type": "http", "endpoint": "http://a"}, "/id"),
        ({"id": "a", "endpoint": "http://a"}, "/type"),
        (document(type="smoke"), "/type"),
        (document(type="removed"), "/type"),
        (document(unknown=1), "/unknown"),
        (document(enabled="yes"), "/enabled"),
        ({"id": "a", "type": "http"}, "/endpoint"),
        (document(endpoint="ftp://a"), "/endpoint"),
        (document(endpoint="orders.example/hooks"), "/endpoint"),
        (document(endpoint="http://"), "/endpoint"),
        (document(endpoint="http://a:99999/"), "/endpoint"),
        (document(endpoint="http://a:0/"), "/endpoint"),
        (document(endpoint="http://[::1/"), "/endpoint"),
        (document(endpoint="http://a/b c"), "/endpoint"),
        (document(endpoint="http://a/\r\nX: y"), "/endpoint"),
        (document(endpoint="http://user:secret@a/", config={"authentication": BEARER}), "/endpoint"),
        (config(method="post"), "/config/method"),
        (config(method="HEAD"), "/config/method"),
        (config(method="CONNECT"), "/config/method"),
        (config(query={"": "x"}), "/config/query/"),
        (config(signing_secret=[SECRET, "x"]), "/config/signing_secret/1"),
        (config(signing_secret="whsk_AAAA"), "/config/signing_secret"),
        (config(retry={"on": [200]}), "/config/retry/on/0"),
        (config(retry={"on": ["2xx"]}), "/config/retry/on/0"),
        (config(authentication={"type": "magic"}), "/config/authentication/type"),
        (config(authentication={"type": "bearer"}), "/config/authentication/token"),
        (config(authentication={"type": "bearer", "token": ""}), "/config/authentication/token"),
        (config(authentication={"type": "bearer", "token": "a\r\nX: b"}), "/config/authentication/token"),
        (config(authentication={"type": "basic", "username": "a:b", "password": ""}), "/config/authentication/username"),
        (config(authentication={"type": "api_key", "name": "a b", "key": "x"}), "/config/authentication/name"),
        (config(authentication={"type": "api_key", "name": "Host", "key": "x"}), "/config/authentication/name"),
        (config(authentication={"type": "api_key", "name": "", "in": "query", "key": "x"}), "/config/authentication/name"),
        (config(authentication={"type": "api_key", "in": "cookie", "key": "x"}), "/config/authentication/in"),
        (config(authentication={**OAUTH2, "token_url": "ftp://a"}), "/config/authentication/token_url"),
        (config(authentication={**OAUTH2, "token_url": "http://a:b@c/"}), "/config/authentication/token_url"),
        (config(authentication={**OAUTH2, "client_id": ""}), "/config/authentication/client_id"),
        (config(authentication=BEARER, headers={"AUTHORIZATION": "x"}), "/config/headers/AUTHORIZATION"),
        (config(authentication={"type": "api_key", "key": "x"}, headers={"x-api-key": "y"}), "/config/headers/x-api-key"),
        (config(format="cloudevents-binary", headers={"Ce-Source": "x"}), "/config/headers/Ce-Source"),
        (config(tls={"ca": "x"}), "/config/tls/ca"),
        (document(endpoint="http://a/", config={"tls": {}}), "/config/tls"),
        (config(timeout="0s"), "/config/timeout"),
        (config(timeout="301s"), "/config/timeout"),
        (config(timeout="soon"), "/config/timeout"),
        (config(timeout=10**400), "/config/timeout"),
        (config(timout="5s"), "/config/timout"),
        (config(format="xml"), "/config/format"),
        (config(concurrency=0), "/config/concurrency"),
        (config(concurrency=1001), "/config/concurrency"),
        (config(max_queue=0), "/config/max_queue"),
        (config(overflow="explode"), "/config/overflow"),
        (config(retry={"schedule": ["1s"] * 51}), "/config/retry/schedule"),
        (config(health_check={}), "/config/health_check/path"),
        (config(health_check={"path": "healthz"}), "/config/health_check/path"),
        (config(health_check={"path": "//other.example/"}), "/config/health_check/path"),
        (config(health_check={"path": "/a b"}), "/config/health_check/path"),
        (config(health_check={"path": "/", "interval": "99ms"}), "/config/health_check/interval"),
        (config(retry={"schedule": ["1s", "x"]}), "/config/retry/schedule/1"),
        (config(retry={"schedule": ["9000000d"]}), "/config/retry/schedule/0"),
        (config(signing_secret="secret"), "/config/signing_secret"),
        (config(signing_secret="whsec_c2hvcnQ="), "/config/signing_secret"),
        (config(headers={"": "x"}), "/config/headers/"),
        (config(headers={"a b": "x"}), "/config/headers/a b"),
        (config(headers={"a/b": "x"}), "/config/headers/a~1b"),
        (config(headers={"Content-Length": "1"}), "/config/headers/Content-Length"),
        (config(headers={"Webhook-Id": "1"}), "/config/headers/Webhook-Id"),
        (config(headers={"X-A": "a\r\nX-B: b"}), "/config/headers/X-A"),
        (config(headers={"X-A": 1}), "/config/headers/X-A"),
        (
            document(rules=[{"id": "a", "conditions": [{"field": "x", "operator": "eq", "value": 1}]}]),
            "/rules/0/conditions/0/field",
        ),
        (document(split_group=""), "/split_group"),
        (document(split_group="é" * 33), "/split_group"),
        (document(split_group="a\nb"), "/split_group"),
        (document(split_group=5), "/split_group"),
        (document(split_key="amount"), "/split_key"),
        (document(split_key="data.items[*]"), "/split_key"),
        (document(weight=-1), "/weight"),
        (document(weight=1_000_001), "/weight"),
        (document(weight=0.5), "/weight"),
    ],
)
def test_what_is_wrong_and_where(given: Any, pointer: str) -> None:
    assert pointers(given) == [pointer]


def test_all_that_is_wrong_is_told_at_once() -> None:
    given = document(id="", endpoint="x", config={"timeout": "0s", "headers": {"Host": "x"}, "signing_secret": "x"})
    found = pointers(given)
    assert found == ["/id", "/endpoint", "/config/headers/Host", "/config/signing_secret", "/config/timeout"]
    with pytest.raises(Rejected, match=r"\(and 2 more\)"):
        check(given)


def test_the_checks_of_types_and_all_others_are_made_together() -> None:
    condition = {"field": "a b", "operator": "eq", "value": 1}
    rules = [{"id": "a", "priority": "high", "conditions": [condition]}, {"id": "a", "extra": 1}, {"conditions": None}]
    given = document(id=5, endpoint="ftp://x", config={"timeout": 0, "concurrency": "many"}, rules=rules)
    assert pointers(given) == [
        "/id",
        "/config/concurrency",
        "/rules/0/priority",
        "/rules/1/extra",
        "/rules/2/id",
        "/endpoint",
        "/config/timeout",
        "/rules/1/id",
        "/rules/0/conditions/0/field",
    ]


def test_secrets_are_masked_and_come_back() -> None:
    headers = {"Authorization": "Bearer abcdefghij", "x-api-key": "short", "X-Plain": "seen"}
    target, _ = check(config(signing_secret=SECRET, headers=headers))
    shown = masked(target)
    assert shown["config"]["signing_secret"] == "***LaSw"
    assert shown["config"]["headers"] == {"Authorization": "***ghij", "x-api-key": "***", "X-Plain": "seen"}
    assert SECRET not in json.dumps(shown)
    before = copy.deepcopy(shown)
    again, _ = check(unmask(shown, target))
    assert again == target
    assert shown == before, "the document of the caller was changed"


@pytest.mark.parametrize(
    ("values", "secrets"),
    [
        ({"authentication": BEARER}, ["0123456789abcdef"]),
        ({"authentication": OAUTH2}, ["0123456789abcdef"]),
        ({"authentication": {"type": "basic", "username": "me", "password": "0123456789abcdef"}}, ["0123456789abcdef"]),
        ({"authentication": {"type": "api_key", "key": "0123456789abcdef"}}, ["0123456789abcdef"]),
        ({"signing_secret": [SECRET, "whsec_" + "QUJD" * 11]}, [SECRET, "QUJD"]),
        ({"tls": {"certificate": PEM, "key": PEM.replace("CERTIFICATE", "PRIVATE KEY")}}, ["PRIVATE KEY"]),
    ],
)
def test_every_secret_is_masked_and_comes_back(values: dict[str, Any], secrets: list[str]) -> None:
    target, _ = check(config(**values))
    shown = masked(target)
    assert not [secret for secret in secrets if secret in json.dumps(shown).replace("***QUJD", "")]
    assert check(unmask(shown, target))[0] == target


@pytest.mark.parametrize(
    ("endpoint", "bare", "username", "password"),
    [
        ("https://me:s3cret@a.example/x?y#z", "https://a.example/x?y#z", "me", "s3cret"),
        ("http://m%40e:p%3Aw%2Fd@[::1]:80/", "http://[::1]:80/", "m@e", "p:w/d"),
        ("http://me@a:8080", "http://a:8080", "me", ""),
    ],
)
def test_userinfo_becomes_basic_authentication(endpoint: str, bare: str, username: str, password: str) -> None:
    for given in (document(endpoint=endpoint), document(endpoint=endpoint, config=None), document(endpoint=endpoint, config={})):
        target, _ = check(given)
        assert isinstance(target, WebhookTarget)
        assert (target.endpoint, target.delivery.authentication) == (bare, Basic(username=username, password=password))
        assert "s3cret" not in json.dumps(masked(target))


def test_a_new_secret_replaces_the_stored_one() -> None:
    target, _ = check(config(signing_secret=SECRET, headers={"Authorization": "Bearer abcdefghij"}))
    other = "whsec_" + "QUJD" * 11
    given = config(signing_secret=other, headers={"Authorization": "Basic xyz", "X-Plain": "***ghij"})
    assert unmask(given, target) == given
    assert unmask(config(signing_secret=""), target)["config"]["signing_secret"] == ""


def test_a_mask_of_something_else_is_refused() -> None:
    target, _ = check(config(signing_secret=SECRET))
    wrong = [Flaw("/config/signing_secret", "is the mask of a secret: write the secret")]
    for given in (unmask(config(signing_secret="***abcd"), target), unmask(config(signing_secret="***LaSw"), None)):
        with pytest.raises(Rejected) as caught:
            check(given)
        assert list(caught.value.flaws)[-1:] == wrong
    assert pointers(config(headers={"Authorization": "***", "X-Y": "***abcd", "X-Api-Key": "***abcd"})) == [
        "/config/headers/Authorization",
        "/config/headers/X-Api-Key",
    ]


@pytest.mark.parametrize("given", [5, [], {}, {"config": 5}, {"config": {"headers": 5}}])
def test_unmask_leaves_what_is_no_document_to_check(given: Any) -> None:
    target, _ = check(config(signing_secret=SECRET))
    assert unmask(given, target) == given


@pytest.mark.parametrize(("secret", "shown"), [("", "***"), ("x" * 12, "***"), ("0123456789abc", "***9abc")])
def test_mask(secret: str, shown: str) -> None:
    assert mask(secret) == shown


@pytest.mark.parametrize("queue", ["dead", "discard"])
def test_tombstones(queue: Any) -> None:
    tombstone = Removed(id="orders", queue=queue)
    assert decode(encode(tombstone)) == tombstone
    assert b'"removed"' in encode(tombstone)


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[]", b'{"type":"http"}', b'{"type":"http","id":"a","endpoint":"b","new":1}', b"\xff"]
)
def test_a_stored_document_that_cannot_be_read(value: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        decode(value)
    assert caught.value.code == "INVALID_TARGET"


def test_the_tag_tells_the_type() -> None:
    assert type(decode(encode(check(document(type="http"))[0]))) is HttpTarget
    assert type(decode(encode(check(document(type="webhook"))[0]))) is WebhookTarget


@pytest.mark.parametrize(
    ("member", "value"),
    [("endpoint", "http://host:99999/"), ("endpoint", "http://" + "a" * 64 + "/"), ("config", {"signing_secret": "secret"})],
)
def test_a_stored_document_is_checked_as_a_new_one_is(member: str, value: object) -> None:
    """Somebody may have written it into the bucket by hand: a service that read it must not fall over it."""
    document = {"id": "x", "type": "webhook", "endpoint": "http://host/", member: value}
    with pytest.raises(Rejected):
        decode(json.dumps(document).encode())


def test_all_but_grpc_take_the_text_of_a_template() -> None:
    def found(given: dict[str, Any], template: Any) -> list[str]:
        try:
            check({**given, "rules": [{"id": "a"}, {"id": "b", "transform": {"template": template}}]})
        except Rejected as error:
            return [flaw.pointer for flaw in error.flaws]
        return []

    grpc = {"id": "g", "type": "grpc", "endpoint": "grpc://localhost:50051"}
    assert found(grpc, "text") == ["/rules/1/transform/template"]
    assert found(grpc, {"n": 1}) == []
    for more in (
        {"type": "http", "endpoint": "http://localhost/"},
        {"type": "webhook", "endpoint": "http://localhost/"},
        {"type": "kafka", "endpoint": "kafka://localhost:9092", "config": {"topic": "t"}},
        {"type": "nats", "endpoint": "nats://localhost:4222", "config": {"subject": "t"}},
        {"type": "argo-events", "endpoint": "http://localhost/"},
    ):
        assert found({"id": "h", **more}, "text") == []
