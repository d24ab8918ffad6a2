"""The target document (bucket ``tas_targets``): where events go, by which rules, and how.

Data only: what is valid, and what the defaults are. ``control`` writes it, ``process`` reads the rules, ``forward`` the rest.
A new target type is one file here, one member of ``AnyTarget``, and its file in ``services/forward/targets/``.
"""

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from tas_mcp.durations import from_json, to_json
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.routing import RuleSet, compile_rules
from tas_mcp.sealing import NO_KEYS, PREFIX, CannotOpen, SecretKeys
from tas_mcp.targets import masking
from tas_mcp.targets.argo import ArgoConfig, ArgoTarget
from tas_mcp.targets.authentication import ApiKey, Authentication, Basic, Bearer, OAuth2
from tas_mcp.targets.grpc import GrpcConfig, GrpcTarget
from tas_mcp.targets.http import HttpConfig, HttpHealthCheck, HttpRetry, HttpTarget, WebhookTarget, userinfo_moved
from tas_mcp.targets.kafka import KafkaConfig, KafkaTarget
from tas_mcp.targets.masking import mask
from tas_mcp.targets.nats import NatsConfig, NatsTarget
from tas_mcp.targets.policies import BreakerPolicy, Exponential, HealthCheck, RateLimit, Retry
from tas_mcp.targets.target import Config, Removed, Target, check_config, check_id, check_split
from tas_mcp.targets.tls import Tls
from tas_mcp.validation import flaw, flaws, invalid, mended

__all__ = [
    "AnyTarget",
    "ApiKey",
    "ArgoConfig",
    "ArgoTarget",
    "Authentication",
    "Basic",
    "Bearer",
    "BreakerPolicy",
    "Config",
    "Exponential",
    "GrpcConfig",
    "GrpcTarget",
    "HealthCheck",
    "HttpConfig",
    "HttpHealthCheck",
    "HttpRetry",
    "HttpTarget",
    "KafkaConfig",
    "KafkaTarget",
    "NatsConfig",
    "NatsTarget",
    "OAuth2",
    "RateLimit",
    "Removed",
    "Retry",
    "Stored",
    "Target",
    "Tls",
    "WebhookTarget",
    "check",
    "compiled",
    "decode",
    "encode",
    "mask",
    "masked",
    "outdated",
    "sealed",
    "secrets",
    "unmask",
]

AnyTarget = HttpTarget | WebhookTarget | GrpcTarget | KafkaTarget | NatsTarget | ArgoTarget
Stored = AnyTarget | Removed

_SEALED = f'"{PREFIX}'.encode()
_decode = msgspec.json.Decoder(Stored, dec_hook=from_json).decode
encode = msgspec.json.Encoder(enc_hook=to_json).encode


def decode(value: bytes, keys: SecretKeys = NO_KEYS) -> Stored:
    """Read a stored document: see ``compiled``."""
    return compiled(value, keys)[0]


def compiled(value: bytes, keys: SecretKeys | None = NO_KEYS) -> tuple[AnyTarget, RuleSet] | tuple[Removed, None]:
    """Read a stored document, its secrets opened with ``keys`` (None: left as they are stored, for whom does not need them), with
    its rules compiled.

    Raises:
        Rejected: it is not valid (written by hand, or by a newer version), or a secret cannot be opened.
    """
    found = _stored(value)
    if isinstance(found, Removed):
        return found, None
    if _SEALED not in value:
        return found, _check(found)
    return _left_sealed(found) if keys is None else _opened(found, keys)


def sealed(stored: Stored, keys: SecretKeys) -> bytes:
    """The document as it is to be stored: its secrets sealed, where there is a key."""
    if isinstance(stored, Removed) or not keys:
        return encode(stored)
    document = msgspec.to_builtins(stored, enc_hook=to_json)
    for place in masking.places(document, stored.secrets):
        place.put(keys.seal(place.secret, _bound(stored, place.pointer)))
    return encode(document)


def outdated(value: bytes, keys: SecretKeys) -> bool:
    """Whether a stored document holds a secret that is not sealed with the first key.

    Raises:
        Rejected: it is not valid.
    """
    found = _stored(value)
    if isinstance(found, Removed):
        return False
    document = msgspec.to_builtins(found, enc_hook=to_json)
    return any(not keys.current(place.secret) for place in masking.places(document, found.secrets))


def _stored(value: bytes) -> Stored:
    try:
        return _decode(value)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, ValueError) as error:
        raise _invalid([flaw(error)]) from None


def _opened(found: AnyTarget, keys: SecretKeys) -> tuple[AnyTarget, RuleSet]:
    document = msgspec.to_builtins(found, enc_hook=to_json)
    flaws = []
    for place in masking.places(document, found.secrets):
        try:
            place.put(keys.open(place.secret, _bound(found, place.pointer)))
        except CannotOpen as error:
            flaws.append(Flaw(place.pointer, str(error)))
    if flaws:
        raise _invalid(flaws)
    opened: AnyTarget = msgspec.convert(document, AnyTarget, dec_hook=from_json)
    return opened, _check(opened)


def _left_sealed(found: AnyTarget) -> tuple[AnyTarget, RuleSet]:
    """What is sealed has not the form of such a secret: that was checked before."""
    document = msgspec.to_builtins(found, enc_hook=to_json)
    excused = {place.pointer for place in masking.places(document, found.secrets) if place.secret.startswith(PREFIX)}
    return found, _check(found, excused=excused)


def _bound(target: AnyTarget, pointer: str) -> str:
    """What a sealed secret is bound to."""
    return f"{target.id}\0{pointer}"


def check(document: Any) -> tuple[AnyTarget, RuleSet]:
    """Read and check a document that somebody wants to store (decoded JSON), with all that is wrong with it.

    Raises:
        Rejected: ``INVALID_TARGET`` with a flaw for each problem.
    """
    if isinstance(document, dict) and document.get("config", 0) is None:
        document = {key: value for key, value in document.items() if key != "config"}
    if isinstance(document, dict):
        document = userinfo_moved(document)
    try:
        target: AnyTarget = msgspec.convert(document, AnyTarget, dec_hook=from_json)
    except (msgspec.ValidationError, ValueError):
        raise _invalid(_flaws(document)) from None
    copied = [
        Flaw(place.pointer, "is the mask of a secret: write the secret")
        for place in masking.places(document, target.secrets)
        if place.secret.startswith((masking.MASK, PREFIX))
    ]
    return target, _check(target, copied)


def _flaws(document: Any) -> list[Flaw]:
    """All that is wrong with a document that is no target: first what types say, then what the checks of the rest find."""
    found = flaws(document, AnyTarget, from_json)
    try:
        _check(msgspec.convert(mended(document, AnyTarget, from_json, found), AnyTarget, dec_hook=from_json))
    except Rejected as error:
        known = [each.pointer for each in found]
        return found + [each for each in error.flaws if not any(f"{each.pointer}/".startswith(f"{place}/") for place in known)]
    except (msgspec.ValidationError, ValueError):
        return found  # something is missing without which nothing can be checked
    return found


def masked(target: AnyTarget) -> dict[str, Any]:
    """The document as people may read it: secrets show as ``***`` and their last four characters."""
    return masking.masked(msgspec.to_builtins(target, enc_hook=to_json), target.secrets)


def secrets(target: AnyTarget) -> list[str]:
    """What nobody may read back of it, in the clear."""
    document = {"config": msgspec.to_builtins(target.config, enc_hook=to_json)}
    return [place.secret for place in masking.places(document, target.secrets)]


def unmask(document: Any, current: AnyTarget | None) -> Any:
    """``document`` with every secret that came back masked, unchanged, replaced by the stored one."""
    if current is None or not isinstance(document, dict):
        return document
    return masking.unmasked(document, msgspec.to_builtins(current, enc_hook=to_json), current.secrets)


def _check(target: AnyTarget, copied: Iterable[Flaw] = (), excused: Collection[str] = ()) -> RuleSet:
    """What types alone do not say; the compiled rules. ``copied`` are secrets that are none; at the ``excused`` pointers anything
    may stand."""
    flaws = [*check_id(target.id), *target.flaws(), *check_config(target.delivery), *check_split(target)]
    try:
        rules = compile_rules(target.rules or ())
    except Rejected as error:
        flaws += error.flaws
    flaws += _check_texts(target)
    flaws += copied
    flaws = [each for each in flaws if each.pointer not in excused]
    if flaws:
        raise _invalid(flaws)
    return rules


def _check_texts(target: AnyTarget) -> list[Flaw]:
    """A call of gRPC carries an event; the body of all others may be any text."""
    if not isinstance(target, GrpcTarget):
        return []
    return [
        Flaw(f"/rules/{i}/transform/template", "a call of gRPC carries an event: the template must be JSON, not a string")
        for i, rule in enumerate(target.rules or ())
        if rule.transform is not None and isinstance(rule.transform.template, str)
    ]


def _invalid(flaws: list[Flaw]) -> Rejected:
    return invalid("INVALID_TARGET", "target", flaws)
