"""Tokens of an identity provider: signed JWTs (RFC 7519), as OpenID Connect providers issue them (RFC 9068). No I/O: the keys of
the issuer are given.

A token is taken when it is signed, by an algorithm of ``ALGORITHMS``, with the key that its ``kid`` names in the issuer's key set
(RFC 7517); when ``iss`` and ``aud`` are ours, it has a subject and an end, and the clock stands between ``nbf`` and ``exp``. A
key verifies by its own algorithm only, whatever the token says (RFC 8725, 3.1).
"""

from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
from jwt import PyJWK

from tas_mcp import telemetry
from tas_mcp.auth.credentials import Verified
from tas_mcp.auth.failures import AuthenticationFailed
from tas_mcp.callers import SCOPES, Caller
from tas_mcp.settings import PublicSettings

log = telemetry.logger("auth")

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""The asymmetric ones: whoever can verify by them cannot sign."""
MAX_NAME = 128
FAR = 1e12
"""A time (Unix seconds) beyond all that are meant."""
MAX_KEYS = 100
REQUIRED = ["exp", "iss", "aud", "sub"]

KeySet = Mapping[str, PyJWK]
"""The keys of an issuer by their ``kid`` (``""`` where one has none)."""

_OURS: Any = {"require": REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
"""Times are held against the clock that we are given."""


class UnknownKey(AuthenticationFailed):
    """The token is signed with a key that is not in the key set: it may be newer than that."""


def read_keys(document: bytes) -> KeySet:
    """The usable keys of a JWK Set; others are left out.

    Raises:
        ValueError: it is none, or none of its keys can be used.
    """
    try:
        given = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
    except msgspec.MsgspecError as error:
        raise ValueError(f"it is no JWK Set: {error}") from None
    if not isinstance(given, list):
        raise ValueError("it is no JWK Set: it has no list `keys`")
    found = {str(each.get("kid", "")): key for each in given[:MAX_KEYS] if isinstance(each, dict) and (key := _key(each))}
    if not found:
        raise ValueError(f"none of its {len(given)} keys can be used: needed is one for signatures by {', '.join(ALGORITHMS)}")
    return found


def _key(given: dict[str, Any]) -> PyJWK | None:
    if given.get("use", "sig") != "sig" or "d" in given:  # a private key that is published is no proof of anything
        return None
    try:
        key = PyJWK(given)
    except jwt.PyJWTError:
        return None
    if key.algorithm_name not in ALGORITHMS or key.Algorithm.check_key_length(key.key):
        return None
    return key


class Tokens:
    """Verifies tokens by the settings ``TAS_JWT_*``. ``keys`` may be set anew at any time."""

    def __init__(self, settings: PublicSettings) -> None:
        self._issuer = settings.jwt_issuer
        self._audience = [each.strip() for each in settings.jwt_audience.split(",")]
        self._scope_claim = settings.jwt_scope_claim
        self._leeway = settings.jwt_leeway_seconds
        self.keys: KeySet = {}

    def verify(self, token: str, now: float) -> Verified:
        """Who comes with a token. The text of an error shows nothing of it.

        Raises:
            AuthenticationFailed: it does not let in.
            UnknownKey: its key is not known.
        """
        try:
            claims = jwt.decode(
                token,
                self._signer(token),
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                options=_OURS,
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise AuthenticationFailed("token", f"the token is not valid: {_said(error)}") from None
        name = claims["sub"]
        if not (isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()):
            raise AuthenticationFailed("token", f"the token's subject (`sub`) is no text of at most {MAX_NAME} characters")
        caller = Caller(f"jwt:{name}", self._scopes(claims.get(self._scope_claim)))
        start, until = _time(claims, "nbf", 0.0) - self._leeway, _time(claims, "exp", 0.0) + self._leeway
        if now < start:
            raise AuthenticationFailed("token", "the token is not valid yet (`nbf`)", caller.name)
        if now >= until:
            raise AuthenticationFailed("expired", "the token has expired", caller.name)
        return Verified(caller, until)

    def _signer(self, token: str) -> PyJWK:
        kid = jwt.get_unverified_header(token).get("kid", "")
        key = self.keys.get(kid)
        if key is None and not kid and len(self.keys) == 1:
            return next(iter(self.keys.values()))
        if key is None:
            raise UnknownKey("token", "the token is signed with a key that its issuer does not publish")
        return key

    def _scopes(self, claim: Any) -> frozenset[str]:
        words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
        return SCOPES & {word for word in words if isinstance(word, str)}


def _time(claims: dict[str, Any], name: str, default: float) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < FAR:  # NaN is not
        raise AuthenticationFailed("token", f"the token is not valid: `{name}` is no time")
    return float(value)


def _said(error: Exception) -> str:
    """What was wrong, in words of ours: those of the library may quote the token."""
    for kind, text in (
        (jwt.InvalidAudienceError, "it is for another audience (`aud`)"),
        (jwt.InvalidIssuerError, "it is by another issuer (`iss`)"),
        (jwt.MissingRequiredClaimError, f"it needs {', '.join(f'`{each}`' for each in REQUIRED)}"),
        (jwt.InvalidAlgorithmError, "it is signed by an algorithm that its key is not for"),
        (jwt.InvalidSignatureError, "its signature is wrong"),
    ):
        if isinstance(error, kind):
            return text
    return "it cannot be read"
