"""The rules in force: a document is taken as a whole or not at all."""

import msgspec

from services.process.rulebook import Rules
from tas_mcp import status, targets
from tas_mcp.documents import VALID, Document
from tas_mcp.routing import View
from tas_mcp.sealing import SecretKey, SecretKeys
from tas_mcp.status import Status
from tas_mcp.targets import Removed
from tests.services.process.rig import document, event, rule


def matches(rules: Rules, data: bytes = b'{"amount": 150}') -> list[tuple[str, int, str]]:
    return [(match.target_id, match.revision, match.rule_id) for match in rules.book.route(View(event(data=data)))]


def valid(key: str) -> float:
    return VALID.labels(f"targets/{key}")._value.get()  # type: ignore[no-any-return]


async def test_an_empty_book_routes_nothing() -> None:
    rules = Rules()
    assert matches(rules) == []
    await rules.use([])
    assert (matches(rules), rules.revision) == ([], 0)


async def test_all_documents_of_one_call_come_into_force_together() -> None:
    rules = Rules()
    await rules.use([document("a", 1), document("b", 2, rules=[rule("gt", 100)]), document("c", 3, rules=[rule("gt", 200)])])
    assert matches(rules) == [("a", 1, ""), ("b", 2, "gt-100")]
    assert rules.revision == 3
    assert set(rules.targets) == {"a", "b", "c"}


async def test_sealed_secrets_do_not_keep_rules_from_being_read() -> None:
    given = {"id": "a", "type": "webhook", "endpoint": "http://a/", "config": {"signing_secret": "whsec_" + "A" * 32}}
    target, _ = targets.check({**given, "rules": msgspec.to_builtins([rule("gt", 100)])})
    rules = Rules()
    await rules.use([Document("a", 1, targets.sealed(target, SecretKeys([SecretKey("k1", bytes(32))])))])
    assert matches(rules) == [("a", 1, "gt-100")]


async def test_a_new_revision_replaces_the_old_one() -> None:
    rules = Rules()
    await rules.use([document("a", 1, rules=[rule("gt", 100)])])
    before = rules.book
    await rules.use([document("a", 2, rules=[rule("lt", 100)])])
    assert matches(rules) == []
    assert matches(rules, b'{"amount": 50}') == [("a", 2, "lt-100")]
    assert rules.book is not before, "a book is never changed"


async def test_an_invalid_document_leaves_the_old_one_and_disturbs_no_other() -> None:
    rules = Rules()
    await rules.use([document("a", 1)])
    broken = [b"", b"{}", b'{"id":"a","type":"webhook","endpoint":"http://x","rules":[{"id":"r","conditions":[{"field":"x"}]}]}']
    for revision, value in enumerate(broken, 2):
        await rules.use([Document("a", revision, value), document("b", revision + 10)])
        assert matches(rules) == [("a", 1, ""), ("b", revision + 10, "")]
        assert valid("a") == 0
        assert valid("b") == 1
    assert rules.revision == 14, "it was taken account of"
    await rules.use([document("a", 20, rules=[rule("gt", 1)])])
    assert matches(rules)[0] == ("a", 20, "gt-1")
    assert valid("a") == 1


async def test_a_disabled_target_gets_nothing_until_it_is_enabled() -> None:
    rules = Rules()
    await rules.use([document("a", 1)])
    await rules.use([document("a", 2, enabled=False)])
    assert matches(rules) == []
    assert "a" in rules.targets
    await rules.use([document("a", 3)])
    assert matches(rules) == [("a", 3, "")]


async def test_a_paused_target_is_still_routed_to() -> None:
    rules = Rules()
    await rules.use([document("a", 1, paused=True)])
    assert matches(rules) == [("a", 1, "")]


async def test_a_removed_target_is_gone() -> None:
    rules = Rules()
    gone = Document("a", 3, targets.encode(Removed(id="a")))
    for change in (gone, Document("a", 4, None), gone._replace(key="never there")):
        await rules.use([document("a", 1)])
        await rules.use([change])
        assert matches(rules) == ([("a", 1, "")] if change.key != "a" else [])
        assert rules.revision >= change.revision
    assert set(rules.targets) == {"a"}


async def test_a_target_that_is_gone_gets_nothing_until_it_is_back() -> None:
    rules = Rules()
    await rules.use([document("a", 1), document("b", 2)])
    await rules.use_statuses([Document("a", 1, status.encode(Status(gone=True))), Document("b", 2, status.encode(Status()))])
    assert matches(rules) == [("b", 2, "")]
    await rules.use([document("a", 3)])
    assert matches(rules) == [("b", 2, "")], "a new revision does not enable it"
    await rules.use_statuses([Document("a", 3, None)])
    assert matches(rules) == [("a", 3, ""), ("b", 2, "")]
