"""The page that shows the description: nothing in it comes from elsewhere, and a real browser shows all of it."""

import asyncio
import base64
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from services.control.openapi import document, page
from services.control.openapi.document import operations
from tests.services.control.rig import Rig

BROWSER = os.environ.get("TAS_TEST_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=10000")
BROWSER_SECONDS = 60.0


def test_the_policy_allows_exactly_what_is_in_the_page() -> None:
    found = page()
    html = found.html.decode()
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        [text] = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
        assert len(text) > 1000
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in found.policy
    assert "default-src 'none'" in found.policy
    assert "unsafe" not in found.policy


def test_the_page_names_no_other_host_and_has_no_inline_handlers() -> None:
    html = page().html.decode()
    assert re.findall(r"""(?:src|href|action)=["'](?!#|data:,|openapi\.json)[^"']*""", html) == []
    assert re.findall(r"<[^>]+\son\w+\s*=|innerHTML|document\.write|\beval\(", html) == []


async def test_it_is_served_with_its_policy(rig: Rig) -> None:
    async with rig.session.get(rig.base + "/docs") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        assert answer.headers["Content-Security-Policy"] == page().policy
        assert await answer.read() == page().html


@pytest.mark.real
@pytest.mark.skipif(not BROWSER, reason="needs a Chromium: in the PATH, or named by TAS_TEST_BROWSER")
async def test_a_browser_shows_every_operation_and_schema(rig: Rig, tmp_path: Path) -> None:
    dom, log = await browse(f"{rig.base}/docs#createTarget", tmp_path)
    described = document()
    for _, _, operation in operations(described):
        assert f'id="{operation["operationId"]}"' in dom
    for name in described["components"]["schemas"]:
        assert f'id="schema-{name}"' in dom
    assert re.search(r'<details class="operation" id="createTarget" open', dom)
    assert "curl 'http://127.0.0.1" in dom
    assert re.search(r'<p id="trouble" role="alert"></p>', dom)
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []


async def browse(url: str, folder: Path) -> tuple[str, str]:
    """The document as a browser has it after its scripts have run, and the browser's log."""
    assert BROWSER
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder}", "--dump-dom", url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(BROWSER_SECONDS):
        out, err = await process.communicate()
    return out.decode(), err.decode()
