"""The secrets of stored documents: sealed for the broker, opened for whoever has the key."""

import json
from typing import get_args

import pytest

from tas_mcp import targets
from tas_mcp.errors import Rejected
from tas_mcp.sealing import NO_KEYS, SecretKey, SecretKeys
from tas_mcp.targets import AnyTarget, Removed, masking
from tests.planted import leaks, planted

KEYS = SecretKeys([SecretKey("k1", bytes(32))])
OTHERS = SecretKeys([SecretKey("k2", bytes(32)), SecretKey("k1", bytes(32))])
PLANTED = planted("http://127.0.0.1:1", "127.0.0.1:1")
DOCUMENTS = pytest.mark.parametrize("document", PLANTED.documents.values(), ids=PLANTED.documents)


@DOCUMENTS
def test_what_is_stored_holds_no_secret_and_comes_back_whole(document: dict[str, object]) -> None:
    target = targets.check(document)[0]
    value = targets.sealed(target, KEYS)
    assert leaks(targets.encode(target).decode(), PLANTED.secrets) != []
    assert leaks(value.decode(), PLANTED.secrets) == []
    assert targets.decode(value, KEYS) == target
    assert targets.sealed(target, NO_KEYS) == targets.encode(target)


@DOCUMENTS
def test_who_needs_only_the_rules_reads_it_without_a_key(document: dict[str, object]) -> None:
    value = targets.sealed(targets.check({**document, "rules": [{"id": "r"}]})[0], KEYS)
    found, rules = targets.compiled(value, None)
    assert rules is not None
    assert found.id == document["id"]
    with pytest.raises(Rejected, match="sealed with the key 'k1', which is not in TAS_SECRET_KEY_FILE"):
        targets.decode(value)


@DOCUMENTS
def test_what_is_not_sealed_with_the_first_key_is_outdated(document: dict[str, object]) -> None:
    target = targets.check(document)[0]
    assert targets.outdated(targets.encode(target), KEYS)
    assert not targets.outdated(targets.sealed(target, KEYS), KEYS)
    assert targets.outdated(targets.sealed(target, KEYS), OTHERS)
    assert targets.decode(targets.sealed(target, KEYS), OTHERS) == target


def test_every_place_of_every_type_is_tried_here() -> None:
    wanted = {(kind, path) for kind in get_args(AnyTarget) for path in kind.secrets}
    tried = set()
    for document in PLANTED.documents.values():
        target = targets.check(document)[0]
        shown = json.loads(targets.encode(target))
        tried |= {(type(target), path) for path in target.secrets if list(masking.places(shown, (path,)))}
    missing = {(kind.__name__, path) for kind, path in wanted - tried if kind.__name__ != "HttpTarget"}
    assert missing <= {("NatsTarget", ("config", "nkey")), ("NatsTarget", ("config", "creds"))}  # as a token


def test_a_secret_moved_to_another_target_or_member_cannot_be_opened() -> None:
    stored = json.loads(targets.sealed(targets.check(PLANTED.documents["bearer"])[0], KEYS))
    moved = {**stored, "id": "other"}
    with pytest.raises(Rejected, match="changed or moved"):
        targets.decode(json.dumps(moved).encode(), KEYS)
    config = stored["config"]
    config["headers"] = {"Cookie": config["authentication"]["token"]}
    with pytest.raises(Rejected, match="/config/headers/Cookie: cannot be opened"):
        targets.decode(json.dumps(stored).encode(), KEYS)


def test_a_document_that_was_saved_again_differs_only_where_it_was_changed() -> None:
    document = PLANTED.documents["signed"]
    before = json.loads(targets.sealed(targets.check(document)[0], KEYS))
    after = json.loads(targets.sealed(targets.check({**document, "name": "new"})[0], KEYS))
    assert after == {**before, "name": "new"}


def test_a_flaw_beside_sealed_secrets_is_still_found() -> None:
    stored = json.loads(targets.sealed(targets.check(PLANTED.documents["mtls"])[0], KEYS))
    stored["config"]["tls"]["ca"] = "no certificate"
    with pytest.raises(Rejected, match="/config/tls/ca"):
        targets.compiled(json.dumps(stored).encode(), None)


def test_nobody_may_write_what_looks_sealed() -> None:
    document = {"id": "a", "type": "webhook", "endpoint": "http://a/", "config": {"headers": {"Cookie": "sealed:k1:AAAA"}}}
    with pytest.raises(Rejected, match="/config/headers/Cookie"):
        targets.check(document)


def test_a_tombstone_has_no_secrets() -> None:
    removed = Removed(id="a")
    assert targets.decode(targets.sealed(removed, KEYS), KEYS) == removed
    assert not targets.outdated(targets.encode(removed), KEYS)
