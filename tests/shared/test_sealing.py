"""Sealed secrets: opened only with their key, at their place, as they were made."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.errors import Misconfigured
from tas_mcp.sealing import NO_KEYS, PREFIX, CannotOpen, SecretKey, SecretKeys, parse

OLD = SecretKey("k1", bytes(range(32)))
NEW = SecretKey("k2", bytes(range(1, 33)))
KEYS = SecretKeys([OLD])
LINE = "k1:" + base64.b64encode(OLD.secret).decode()

TEXTS = st.text(st.characters(codec="utf-8"))


@given(TEXTS, TEXTS)
def test_there_and_back(secret: str, place: str) -> None:
    sealed = KEYS.seal(secret, place)
    assert sealed.startswith("sealed:k1:")
    assert secret == KEYS.open(sealed, place)
    assert len(secret) < 8 or secret not in sealed


@given(TEXTS, TEXTS, TEXTS)
def test_it_is_bound_to_its_place(secret: str, place: str, other: str) -> None:
    sealed = KEYS.seal(secret, place)
    if other != place:
        with pytest.raises(CannotOpen):
            KEYS.open(sealed, other)


@given(TEXTS, st.data())
def test_every_changed_byte_is_found(secret: str, data: st.DataObject) -> None:
    sealed = KEYS.seal(secret, "p")
    raw = bytearray(base64.urlsafe_b64decode(sealed.rpartition(":")[2]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CannotOpen):
        KEYS.open(PREFIX + "k1:" + base64.urlsafe_b64encode(raw).decode(), "p")


@given(TEXTS, TEXTS)
def test_what_did_not_change_is_sealed_to_the_same_text_and_what_did_under_another_nonce(secret: str, other: str) -> None:
    def nonce(sealed: str) -> bytes:
        return base64.urlsafe_b64decode(sealed.rpartition(":")[2])[:12]

    sealed = KEYS.seal(secret, "p")
    assert sealed == KEYS.seal(secret, "p")
    assert nonce(sealed) != nonce(KEYS.seal(secret, "q"))
    assert (nonce(sealed) == nonce(KEYS.seal(other, "p"))) is (secret == other)


def test_a_place_and_a_secret_that_touch_are_told_apart() -> None:
    one, other = KEYS.seal("bc", "a"), KEYS.seal("c", "ab")
    assert one.rpartition(":")[2][:16] != other.rpartition(":")[2][:16]


def test_the_first_key_seals_and_all_open() -> None:
    sealed = KEYS.seal("secret", "p")
    rotated = SecretKeys([NEW, OLD])
    assert rotated.open(sealed, "p") == "secret"
    assert not rotated.current(sealed)
    assert rotated.current(rotated.seal("secret", "p"))
    assert rotated.seal("secret", "p").startswith("sealed:k2:")


@pytest.mark.parametrize("keys", [NO_KEYS, SecretKeys([NEW])])
def test_a_key_that_is_missing_is_named(keys: SecretKeys) -> None:
    with pytest.raises(CannotOpen, match="sealed with the key 'k1', which is not in TAS_SECRET_KEY_FILE"):
        keys.open(KEYS.seal("secret", "p"), "p")


def test_another_key_of_the_same_name_opens_nothing() -> None:
    with pytest.raises(CannotOpen, match="is not the one that sealed it"):
        SecretKeys([SecretKey("k1", NEW.secret)]).open(KEYS.seal("secret", "p"), "p")


@pytest.mark.parametrize("stored", ["sealed:k1:", "sealed:k1:%%", "sealed:k1:AAAA", "sealed:k1:ä", "sealed:", "sealed:k1"])
def test_what_nobody_sealed_cannot_be_opened(stored: str) -> None:
    with pytest.raises(CannotOpen):
        KEYS.open(stored, "p")


def test_without_a_key_secrets_are_what_they_are() -> None:
    assert not NO_KEYS
    assert NO_KEYS.seal("secret", "p") == "secret" == NO_KEYS.open("secret", "p") == KEYS.open("secret", "p")
    assert not NO_KEYS.current("secret")


def test_a_file_of_keys() -> None:
    found = parse(f"# the keys\n\nk2: {base64.b64encode(NEW.secret).decode()}\n  {LINE}\n")
    assert found.seal("a", "p") == SecretKeys([NEW]).seal("a", "p")
    assert found.open(KEYS.seal("a", "p"), "p") == "a"
    assert not parse("")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("c2VjcmV0", 1),
        ("k1:c2VjcmV0", 1),
        (f"{LINE}\nk2", 2),
        (f"k 1:{LINE[3:]}", 1),
        (f":{LINE[3:]}", 1),
        (f"{LINE}\n\n{LINE}", 3),
        (f"k1:{LINE[3:]}!", 1),
    ],
)
def test_a_line_that_is_no_key_is_named_and_not_shown(text: str, line: int) -> None:
    with pytest.raises(Misconfigured, match=f"TAS_SECRET_KEY_FILE: line {line}") as raised:
        parse(text)
    assert "c2VjcmV0" not in str(raised.value)
    assert LINE[3:] not in str(raised.value)
