"""Target files checked as a whole: every problem with its file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tas_mcp.target_files import Snapshot, check, load
from tas_mcp.target_files.loading import MAX_BYTES, MAX_FILES
from tas_mcp.targets import WebhookTarget

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def document(target_id: str = "a", **changes: Any) -> dict[str, Any]:
    return {"id": target_id, "type": "webhook", "endpoint": "http://host/", **changes}


def problems(*, offline: bool = False, environ: dict[str, str] | None = None, **files: str) -> list[str]:
    snapshot = Snapshot({f"{name}.yaml": text.encode() for name, text in files.items()}, {})
    return [str(each) for each in check(snapshot, environ or {}, offline=offline).problems]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (json.dumps(document("a")), ["a"]),
        (json.dumps([document("a"), document("b")]), ["a", "b"]),
        (json.dumps({"targets": [document("a"), document("b")]}), ["a", "b"]),
        (f"{json.dumps(document('a'))}\n---\n{json.dumps([document('b')])}\n---\n{json.dumps(document('c'))}", ["a", "b", "c"]),
        ("---\n---\n[]", []),
        ("targets: []", []),
    ],
)
def test_a_file_holds_one_target_or_many(text: str, ids: list[str]) -> None:
    found = check(Snapshot({"x.yaml": text.encode()}, {}), {})
    assert found.problems == []
    assert (list(found.targets), found.written) == (ids, len(ids))


def test_problems_have_lines_and_pointers() -> None:
    text = """\
targets:
- id: a
  type: webhook
  endpoint: http://host/
  config:
    timout: 5s
  rules:
  - id: x
    conditions:
    - field: data.amount
      operator: greater
      value: 1
- type: webhook
  endpoint: http://host/
- 5
"""
    found = problems(x=text)
    places = [each.partition(": ")[0] + " " + each.split(": ")[1] for each in found[:3]]
    assert places == ["x.yaml:6 /config/timout", "x.yaml:11 /rules/0/conditions/0/operator", "x.yaml:13 /id"]
    assert found[3].startswith("x.yaml:15: ")
    assert len(found) == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "x.yaml:1: holds no target; write [] if none is meant"),
        ("targets: {}", "x.yaml:1: targets must be a list"),
        ("targets: []\nother: 1", "x.yaml:2: no such member beside targets: 'other'"),
        ("a: b: c", "x.yaml:1: mapping values are not allowed in this context"),
    ],
)
def test_a_file_that_holds_no_targets(text: str, problem: str) -> None:
    assert problems(x=text) == [problem]


def test_an_id_stands_in_all_files_once() -> None:
    one, two = json.dumps(document("a")), f"\n- {json.dumps(document('b'))}\n- {json.dumps(document('a', endpoint='x'))}"
    assert problems(one=one, two=two) == [
        "two.yaml:3: /endpoint: must be http://host[:port]/path or https://...",
        "two.yaml:3: /id: target 'a' is in one.yaml:1 already",
    ]


def test_texts_refer_to_the_environment() -> None:
    given = document(
        endpoint="https://${HOST}/$${HOST}",
        name="costs $5 {x}",
        config={"signing_secret": "${KEY}", "headers": {"X-A": "${HOST}${HOST}"}},
        rules=[{"id": "r", "conditions": [{"field": "source", "operator": "eq", "value": "${HOST}"}]}],
    )
    text = json.dumps(given).encode()
    target = check(Snapshot({"x.json": text}, {}), {"HOST": "h", "KEY": SECRET}).targets["a"].target
    assert isinstance(target, WebhookTarget)
    assert (target.endpoint, target.name) == ("https://h/${HOST}", "costs $5 {x}")
    assert (target.delivery.signing_secret, target.delivery.headers) == (SECRET, {"X-A": "hh"})
    assert "${HOST}" in repr(target.rules)


def test_a_variable_that_is_not_set() -> None:
    text = json.dumps(document(config={"signing_secret": "${KEY}", "timeout": "0s"}), indent=1)
    assert problems(x=text) == [
        "x.yaml:6: /config/signing_secret: environment variable KEY is not set",
        "x.yaml:7: /config/timeout: must be above 0 and at most 5m",
    ]
    assert problems(x=text, offline=True) == ["x.yaml:7: /config/timeout: must be above 0 and at most 5m"]
    assert problems(x=json.dumps(document(name="${KEY}"))) == ["x.yaml:1: /name: environment variable KEY is not set"]


def test_a_secret_is_not_told(tmp_path: Path) -> None:
    text = json.dumps(document(config={"signing_secret": "${KEY}", "headers": {"Authorization": "${KEY}\n"}}))
    found = problems(x=text, environ={"KEY": "hunter2hunter2"})
    assert len(found) == 2
    assert "hunter2" not in str(found)


PIECES = """id type webhook targets config rules $ { } [ ] : - , &a *a ! | ' " # --- ... ? << @ ` \\ \\u d83d 1e9 0x ~""".split()
PIECES += ["\n", " ", "  ", "\t", "%YAML 1.2\n", "\0", "\ud800"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.sampled_from(["x.yaml", "x.json"]))
@settings(max_examples=500)
def test_whatever_is_in_a_file_is_a_target_or_a_problem(text: str, name: str) -> None:
    found = check(Snapshot({name: text.encode(errors="surrogatepass")}, {}), {})
    assert found.problems or found.written == len(found.targets)
    assert all(each.line >= 1 for each in found.problems)


def test_a_folder_is_read_with_all_below_it(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "sub/c.json", "d.txt", ".hidden.yaml", "..data/e.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = load([tmp_path])
    assert found.unreadable == {}
    assert {Path(name).relative_to(tmp_path).as_posix(): text.decode() for name, text in found.files.items()} == {
        name: name for name in ("a.yml", "b.yaml", "sub/c.json")
    }


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "many").mkdir()
    for number in range(MAX_FILES + 1):
        (tmp_path / "many" / f"{number}.json").touch()
    (tmp_path / "large.json").write_bytes(b" " * (MAX_BYTES + 1))
    names = ("empty", "many", "large.json", "missing.json")
    found = load([tmp_path / name for name in names])
    assert found.files == {}
    assert [Path(each).name for each in found.unreadable] == list(names)
    assert len(check(found, {}).problems) == 4
    assert str(check(found, {}).problems[3]) == f"{tmp_path}/missing.json: cannot be read: No such file or directory"
