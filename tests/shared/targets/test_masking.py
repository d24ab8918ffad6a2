"""Secrets in any place of a document."""

from typing import Any

from tas_mcp.targets.masking import Path, masked, places, unmasked

PATHS: tuple[Path, ...] = (
    ("config", "key"),
    ("config", "keys", "*"),
    ("config", "login", "password"),
    ("config", "headers", frozenset(("authorization",))),
)


def document(**config: Any) -> dict[str, Any]:
    return {"id": "key", "config": config}


STORED = document(
    key="0123456789abcdef",
    keys=["first-secret-1", "second-secret-2", ""],
    login={"user": "jo", "password": "short"},
    headers={"AUTHORIZATION": "Bearer 0123456789", "X": "y"},
    other=["first-secret-1"],
)
SHOWN = document(
    key="***cdef",
    keys=["***et-1", "***et-2", ""],
    login={"user": "jo", "password": "***"},
    headers={"AUTHORIZATION": "***6789", "X": "y"},
    other=["first-secret-1"],
)


def test_there_and_back() -> None:
    assert masked(STORED, PATHS) == SHOWN
    assert unmasked(SHOWN, STORED, PATHS) == STORED


def test_a_list_may_come_back_in_another_order_and_with_others() -> None:
    given = document(keys=["a new one", "***et-2"])
    assert unmasked(given, STORED, PATHS) == document(keys=["a new one", "second-secret-2"])


def test_what_was_changed_or_moved_is_taken_as_written() -> None:
    for given in (
        document(key="***et-1"),
        document(keys=["***cdef"]),
        document(login={"password": "***6789"}, headers={"X": "***6789", "authorization": "***6789"}),
        document(key=["***cdef"], keys="***et-1", login="***", headers=["***6789"]),
        {"id": "***cdef"},
    ):
        assert unmasked(given, STORED, PATHS) == given


def test_masks_are_found_where_secrets_stand() -> None:
    paths: tuple[Path, ...] = (("a", "b"), ("a", frozenset({"x", "y/z"})), ("list", "*"))
    document = {"a": {"b": "***", "X": "***abcd", "y/z": "***", "c": "***"}, "list": ["secret", "***cret", 5]}
    assert [place.pointer for place in places(document, paths) if place.secret.startswith("***")] == [
        "/a/b",
        "/a/X",
        "/a/y~1z",
        "/list/1",
    ]
    assert list(places({"a": 5, "list": None}, paths)) == []
