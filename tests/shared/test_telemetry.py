"""Logs as a process writes them: run in a process, read from its standard error."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared"

SCRIPT = """
import asyncio, logging
from tas_mcp import telemetry

early = telemetry.logger("early")  # made at import, before anything is configured
telemetry.configure("ingest", {level!r}, {form!r})
early.debug("too fine")
with telemetry.context(request_id="r1", correlation_id="", trace_id="t1"):
    early.info("inside", count=3, odd=object, raw=b"x")
    logging.getLogger("aiokafka").error("a library says %s", "hello")
    logging.getLogger("aiohttp.server").error("a malformed request, with a traceback")
early.info("outside")
logging.getLogger("noisy").info("a library chats")
try:
    1 / 0
except ZeroDivisionError:
    early.exception("went wrong")
    logging.getLogger("asyncio").exception("a library too")
"""


SENT = r"""
import logging
from tas_mcp import telemetry

telemetry.configure("ingest", {level!r}, {form!r})
bad = "a\r\nerror: forged \x1b[31m\x9b\u2028\u202e\u00fc"
with telemetry.context(correlation_id=bad):
    telemetry.logger("us").info(bad, path=bad)
    logging.getLogger("a library").error("says %s", bad)
"""
"""What somebody sent ends up in what is logged."""


@cache
def lines(level: str = "info", form: str = "json", script: str = SCRIPT) -> list[str]:
    command = [sys.executable, "-c", script.format(level=level, form=form)]
    environ = {**os.environ, "PYTHONPATH": str(SHARED)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == ""
    return done.stderr.rstrip("\n").split("\n")


def logged() -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines()]


def test_each_line_is_an_object_with_its_ids() -> None:
    inside, library, outside, *_ = logged()
    assert inside.pop("ts").endswith("Z")
    assert inside == {
        "event": "inside",
        "level": "info",
        "component": "early",
        "service": "ingest",
        "request_id": "r1",
        "trace_id": "t1",
        "count": 3,
        "odd": "<class 'object'>",
        "raw": "eA==",
    }
    assert library.items() >= {"event": "a library says hello", "level": "error", "service": "ingest", "request_id": "r1"}.items()
    assert "request_id" not in outside


def test_an_exception_stays_on_one_line() -> None:
    ours, theirs = logged()[3:]
    for line in (ours, theirs):
        assert "ZeroDivisionError: division by zero" in line["exception"]
        assert "Traceback" in line["exception"]
    assert (ours["event"], theirs["event"]) == ("went wrong", "a library too")


def test_the_level_holds_for_us_and_for_libraries() -> None:
    found = [json.loads(line)["event"] for line in lines(level="error")]
    assert found == ["a library says hello", "went wrong", "a library too"]
    assert "too fine" in "".join(lines(level="debug"))
    assert "a library chats" not in "".join(lines(level="debug"))


def test_malformed_requests_do_not_fill_the_log() -> None:
    assert "malformed" not in "".join(lines())


def test_text_for_people_and_json_when_nobody_looks() -> None:
    text = lines(form="text")
    assert any("inside" in line and "r1" in line for line in text)
    assert not text[0].startswith("{")
    assert all(line.startswith("{") for line in lines(form="auto"))


def test_what_was_sent_forges_no_line_and_moves_no_cursor() -> None:
    text, objects = lines(form="text", script=SENT), lines(script=SENT)
    assert (len(text), len(objects)) == (2, 2)
    assert all(r"a\r\nerror: forged" in line for line in text)
    for line in text:
        assert not any(each in line for each in ("\x1b[31m\x9b", "\u2028", "\u202e", "\r"))
        assert "ü" in line
    assert json.loads(objects[0])["path"].startswith("a\r\nerror"), "JSON keeps it as it was"
