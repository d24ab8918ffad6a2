"""Our signatures against Standard Webhooks: its reference verifier, the vector of its specification, and tampering."""

import base64
import time
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tas_mcp.signature import ASYMMETRIC, PREFIX, Signer, private_key, secret_key, signing

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def secret(key: bytes) -> str:
    return PREFIX + base64.b64encode(key).decode()


def headers(webhook_id: str, timestamp: int, signature: str) -> dict[str, str]:
    return {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_the_vector_of_the_specification() -> None:
    found = Signer(secret_key(SECRET)).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=200), st.uuids())
def test_the_reference_verifier_takes_what_we_sign(key: bytes, noise: bytes, number: object) -> None:
    body = b'"' + base64.b64encode(noise) + b'"'
    webhook_id, now = f"evt_{number}", int(time.time())
    signature = Signer(secret_key(secret(key))).sign(webhook_id, now, body)
    Webhook(secret(key)).verify(body.decode(), headers(webhook_id, now, signature))
    theirs = Webhook(secret(key)).sign(webhook_id, datetime.fromtimestamp(now, UTC), body.decode())
    assert theirs == signature


def test_one_signer_signs_many() -> None:
    signer, now = Signer(secret_key(SECRET)), int(time.time())
    for number in range(3):
        body = b"%d" % number
        Webhook(SECRET).verify(body.decode(), headers(f"e{number}", now, signer.sign(f"e{number}", now, body)))


@pytest.mark.parametrize("changed", ["id", "timestamp", "body", "key"])
def test_whatever_is_changed_the_signature_fails(changed: str) -> None:
    now = int(time.time())
    key = secret_key(SECRET) if changed != "key" else b"k" * 24
    signature = Signer(key).sign("e1", now, b"{}")
    given = headers("e2" if changed == "id" else "e1", now + (changed == "timestamp"), signature)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify("[]" if changed == "body" else "{}", given)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "must start with whsec_ or whsk_"),
        ("whsec_!!!", "is no base64"),
        ("whsec_YWJj\n", "is no base64"),
        (secret(b"x" * 23), "holds 23 bytes"),
        (secret(b"x" * 65), "holds 65 bytes"),
        ("whsec_", "holds 0 bytes"),
    ],
)
def test_what_is_no_secret(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        secret_key(text)


@pytest.mark.parametrize("size", [24, 64])
def test_the_sizes_at_the_border(size: int) -> None:
    assert secret_key(secret(b"x" * size)) == b"x" * size


# Several secrets, and asymmetric ones.

SEED = bytes(range(32))


def asymmetric(key: bytes) -> str:
    return ASYMMETRIC + base64.b64encode(key).decode()


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_an_ed25519_signature_is_of_the_same_content(seed: bytes, body: bytes) -> None:
    value = signing([asymmetric(seed)])("evt_1", 1614265330, body)
    version, _, signature = value.partition(",")
    assert version == "v1a"
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    public.verify(base64.b64decode(signature), b"evt_1.1614265330." + body)
    for other in (b"evt_2.1614265330." + body, b"evt_1.1614265331." + body, b"evt_1.1614265330." + body + b" "):
        with pytest.raises(InvalidSignature):
            public.verify(base64.b64decode(signature), other)


def test_a_key_may_come_with_its_public_half() -> None:
    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    both, alone = asymmetric(SEED + public), asymmetric(SEED)
    assert signing([both])("e", 1, b"x") == signing([alone])("e", 1, b"x")
    with pytest.raises(ValueError, match="belongs to another key"):
        private_key(asymmetric(SEED + bytes(32)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [("whsk_!", "is no base64 after whsk_"), ("whsk_AAAA", "holds 3 bytes"), ("whpk_" + "A" * 44, "whsec_ or whsk_")],
)
def test_what_is_no_key(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        signing([text])


def test_while_a_secret_is_exchanged_both_verify() -> None:
    old, new, now = secret(b"o" * 24), secret(b"n" * 32), int(time.time())
    value = signing([new, old, asymmetric(SEED)])("e1", now, b"{}")
    assert [each.partition(",")[0] for each in value.split(" ")] == ["v1", "v1", "v1a"]
    for known in (old, new):
        Webhook(known).verify("{}", headers("e1", now, value))
        with pytest.raises(WebhookVerificationError):
            Webhook(known).verify("[]", headers("e1", now, value))
    with pytest.raises(WebhookVerificationError):
        Webhook(secret(b"x" * 24)).verify("{}", headers("e1", now, value))
