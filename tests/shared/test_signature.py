"""Our signatures against Standard Webhooks: its reference verifier, the vector of its specification, and tampering."""

import base64
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tas_mcp.signature import PREFIX, Signer, secret_key

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
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "must start with whsec_"),
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
