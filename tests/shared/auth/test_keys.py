"""API keys: how they look, what is stored of them, and when one lets in."""

import secrets
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.auth import AuthenticationFailed, keys
from tas_mcp.auth.keyring import Keyring
from tas_mcp.documents import Document
from tas_mcp.errors import Rejected
from tas_mcp.messages import encode

NOW = 1_000.0


def made(**changes: Any) -> tuple[str, bytes]:
    """A key, and its document."""
    text = keys.text(secrets.token_bytes)
    values = {"name": "shop", "hash": keys.hash_of(text), "scopes": ("events:write",), "created_at": 1.0, "created_by": "test"}
    return text, encode({**values, **changes})


def holding(text: str, value: bytes | None, revision: int = 1) -> Keyring:
    ring = Keyring()
    ring.use([Document(keys.id_of(text), revision, value)])
    return ring


def found(ring: Keyring, text: str, now: float = NOW) -> str:
    return ring.verify(keys.id_of(text), keys.digest(text), now).caller.name


def test_a_key_has_an_id_and_256_random_bits() -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    text = keys.text(random)
    assert text == "tas_000102030405_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert asked == [6, 32]
    assert keys.id_of(text) == "000102030405"


@given(st.text() | st.from_regex(r"tas_[0-9a-f]{11,13}_[\w-]{42,44}"))
def test_an_id_is_only_read_from_a_whole_key(text: str) -> None:
    key_id = keys.id_of(text)
    assert not key_id or (text.startswith(f"tas_{key_id}_") and len(text) == 60 and text.isascii())


def test_what_is_stored_holds_no_secret() -> None:
    text, value = made()
    assert text.split("_", 2)[2].encode() not in value


def test_a_key_stands_for_its_caller() -> None:
    text, value = made(scopes=["events:write", "admin"], event_types=["order.*"], sources=["shop"])
    caller = holding(text, value).verify(keys.id_of(text), keys.digest(text), NOW).caller
    assert caller.name == f"shop/{keys.id_of(text)}"
    assert caller.scopes == {"events:write", "admin"}
    assert (caller.event_types, caller.sources) == (("order.*",), ("shop",))


def test_another_secret_with_the_same_id_is_unknown() -> None:
    text, value = made()
    ring = holding(text, value)
    forged = text[:-1] + ("A" if text[-1] != "A" else "B")
    with pytest.raises(AuthenticationFailed) as caught:
        found(ring, forged)
    assert (caught.value.reason, forged in caught.value.detail) == ("unknown_key", False)


def test_a_revoked_key_is_unknown() -> None:
    text, value = made()
    ring = holding(text, value)
    ring.use([Document(keys.id_of(text), 2, None)])
    assert ring.revision == 2
    with pytest.raises(AuthenticationFailed):
        found(ring, text)


def test_a_key_whose_document_cannot_be_read_lets_nobody_in() -> None:
    text, value = made()
    ring = holding(text, value)
    ring.use([Document(keys.id_of(text), 2, b'{"scopes":')])
    with pytest.raises(AuthenticationFailed):
        found(ring, text)


def test_a_key_lets_in_until_its_time_is_over() -> None:
    text, value = made(expires_at=NOW)
    ring = holding(text, value)
    assert found(ring, text, NOW - 0.001)
    with pytest.raises(AuthenticationFailed) as caught:
        found(ring, text, NOW)
    assert caught.value.reason == "expired"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": "a b"}, "/name"),
        ({"name": ""}, "/name"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["events:delete"]}, "/scopes/0"),
        ({"event_types": ["x" * 513]}, "/event_types/0"),
        ({"secret": "x"}, "/secret"),
    ],
)
def test_what_is_no_key(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Rejected) as caught:
        keys.decode(made(**changes)[1])
    assert [flaw.pointer for flaw in caught.value.flaws] == [pointer]


def test_a_document_is_read_as_it_was_written() -> None:
    value = made(expires_at=5.0, sources=["a*"])[1]
    assert msgspec.json.decode(encode(keys.decode(value))) == {**msgspec.json.decode(value), "event_types": []}
