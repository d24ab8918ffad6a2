"""What the documents show of WebSockets and streams is run: Python, curl, and pages in a browser."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

import pytest
import requests

from tests.e2e.test_dev import Dev
from tests.e2e.test_docs import ROOT, blocks

DOCUMENT = ROOT / "docs" / "protocols.md"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 90.0
HEAR = "<script>console.log = (...words) => fetch('/heard', {method: 'POST', body: words.join(' ')})</script>"


@contextmanager
def pages(html: str, heard: Queue[str]) -> Iterator[str]:
    """Serve a page, and take what it says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def do_POST(self) -> None:
            heard.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    found = Dev(tmp_path, "--ephemeral", environ={"TAS_ALLOWED_ORIGINS": "*"}).running()
    try:
        yield found
    finally:
        found.close()


def here(text: str, dev: Dev) -> str:
    return text.replace("localhost:8080", f"127.0.0.1:{dev.ports.http}")


def order(dev: Dev) -> None:
    event = '{"event_type": "order.created", "source": "shop", "data": {"amount": 250}}'
    requests.post(f"{dev.base}/api/v1/events", data=event, timeout=60).raise_for_status()


def test_the_python_of_the_protocols_works(dev: Dev, tmp_path: Path) -> None:
    [block] = [each for each in blocks(DOCUMENT, "python") if "/api/v1/events/ws" in each]
    script = tmp_path / "example.py"
    script.write_text(here(block, dev))
    done = subprocess.run([sys.executable, script], capture_output=True, check=False, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"'type': '(\w+)'", done.stdout)) == ["ack", "ack", "event"]


@pytest.mark.skipif(not shutil.which("curl"), reason="the commands are curl's, which is not installed")
def test_the_streams_of_the_protocols_work(dev: Dev) -> None:
    found = [block for block in blocks(DOCUMENT, "bash") if "curl -N" in block]
    assert found
    order(dev)
    for block in found:
        with subprocess.Popen(["bash", "-c", f"exec {here(block, dev)}"], stdout=subprocess.PIPE, text=True) as curl:
            try:
                assert curl.stdout is not None
                data = next(line for line in curl.stdout if line.startswith("data: "))
                assert '"order.created"' in data
            finally:
                curl.kill()


@pytest.mark.skipif(not BROWSER, reason="there is no chromium")
def test_the_pages_of_the_protocols_work(dev: Dev, tmp_path: Path) -> None:
    assert BROWSER
    order(dev)
    found = blocks(DOCUMENT, "html")
    assert len(found) == 2
    for number, (block, wanted) in enumerate(zip(found, ('"accepted"', '"order.created"'), strict=True)):
        heard: Queue[str] = Queue()
        with pages(HEAR + here(block, dev), heard) as url:
            flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / str(number)}"]
            browser = subprocess.Popen([BROWSER, *flags, "--remote-debugging-port=0", url], stderr=subprocess.DEVNULL)
            try:
                assert wanted in heard.get(timeout=SECONDS)
            except Empty:
                pytest.fail("the page said nothing")
            finally:
                browser.kill()
                browser.wait()
