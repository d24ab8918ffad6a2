"""Servers that people run, started where they are installed: each yields its port, and closes connections that are idle for
``IDLE_SECONDS``."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

HERE = Path(__file__).parent
IDLE_SECONDS = 0.05
START_SECONDS = 60.0
BUILD_SECONDS = 100.0

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; keepalive_timeout 50ms; keepalive_requests 1000;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "taken"; }} }}
}}
"""
CADDY = """
{{
  admin off
  servers {{
    timeouts {{
      idle 50ms
    }}
  }}
}}
http://127.0.0.1:{port} {{
  respond "taken" 200
}}
"""
UVICORN = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"taken"})
"""


class Missing(Exception):
    """The server is not installed here."""


@contextmanager
def node(_: Path) -> Iterator[int]:
    with telling([program("node"), str(HERE / "server.mjs"), str(int(IDLE_SECONDS * 1000))]) as port:
        yield port


@contextmanager
def go(folder: Path) -> Iterator[int]:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "GO111MODULE": "off"}
    command = [program("go"), "build", "-o", str(folder / "server"), str(HERE / "server.go")]
    subprocess.run(command, check=True, timeout=BUILD_SECONDS, env=environment, capture_output=True)
    with telling([str(folder / "server"), str(int(IDLE_SECONDS * 1000))]) as port:
        yield port


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    with started([program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")], port):
        yield port


@contextmanager
def caddy(folder: Path) -> Iterator[int]:
    port = free_port()
    (folder / "Caddyfile").write_text(CADDY.format(port=port))
    with started([program("caddy"), "run", "--config", str(folder / "Caddyfile")], port):
        yield port


@contextmanager
def uvicorn(folder: Path) -> Iterator[int]:
    if importlib.util.find_spec("uvicorn") is None:
        raise Missing("uvicorn")
    port = free_port()
    (folder / "sink.py").write_text(UVICORN)
    options = ["--port", str(port), "--timeout-keep-alive", "1", "--app-dir", str(folder), "--log-level", "warning"]
    with started([sys.executable, "-m", "uvicorn", "sink:app", *options], port):
        yield port


SERVERS: dict[str, Callable[[Path], "contextmanager[int]"]] = {  # type: ignore[valid-type]
    "node": node,
    "go": go,
    "nginx": nginx,
    "caddy": caddy,
    "uvicorn": uvicorn,
}


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(name)
    return found


@contextmanager
def telling(command: list[str]) -> Iterator[int]:
    """A server that prints its port when it listens."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        ended(process)
        process.stdout.close()


@contextmanager
def started(command: list[str], port: int) -> Iterator[None]:
    """A server that is known to listen by its answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not answers(port):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.02)
        yield
    finally:
        ended(process)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1):
            return True
    except OSError:
        return False


def ended(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(10)
