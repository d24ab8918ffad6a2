"""The gateway behind TLS, as docs/security.md says, from its processes to a client on a socket."""

import asyncio
import io
import json
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.certificates import Authority
from tests.e2e.conftest import event
from tests.e2e.system import BATCH, EVENTS, ROOT, TARGETS, Program
from tests.e2e.test_dev import Dev
from tests.e2e.test_docs import blocks, commands
from tests.ports import free_port
from tests.shared.rig import until

SECURITY = ROOT / "docs" / "security.md"
STREAM = "/api/v1/events/stream"
AUTHORITY = Authority()


def write(folder: Path) -> dict[str, str]:
    """A new pair, swapped in as a whole, and the settings that name it."""
    pair = AUTHORITY.issue()
    for name, text in (("cert.pem", pair.certificate), ("key.pem", pair.key)):
        (folder / "new").write_text(text)
        (folder / "new").replace(folder / name)
    return {"TAS_TLS_CERT_FILE": str(folder / "cert.pem"), "TAS_TLS_KEY_FILE": str(folder / "key.pem")}


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    found = Dev(tmp_path, "--ephemeral", environ=write(tmp_path)).running()
    try:
        yield found
    finally:
        found.close()


async def test_certificates_change_under_load_and_no_client_notices(tmp_path: Path, dev: Dev) -> None:
    """A new pair comes again and again. Of four clients two keep their connection, two make a new one for each request; two send
    events only, over the express lane, two ask for targets too, which makes their connections aiohttp's."""
    base = f"https://localhost:{dev.ports.http}"
    assert base.replace("localhost", "127.0.0.1") in dev.out
    context = ssl.create_default_context(cadata=AUTHORITY.certificate)
    serials: set[str] = set()
    accepted: list[int] = []
    stop = asyncio.Event()

    async def client(number: int) -> None:
        connector = aiohttp.TCPConnector(ssl=context, force_close=number % 2 == 0)
        async with aiohttp.ClientSession(base, connector=connector) as session:
            while not stop.is_set():
                async with session.post(EVENTS, json=event("tls")) as answer:
                    accepted.append(answer.status)
                async with session.post(BATCH, json=[event("tls")]) as answer:
                    accepted.append(answer.status)
                if number > 1:
                    async with session.get(TARGETS) as answer:
                        accepted.append(answer.status)

    async def serial() -> str:
        _, writer = await asyncio.open_connection("localhost", dev.ports.http, ssl=context)
        found: str = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return found

    async def shown() -> bool:
        serials.add(await serial())
        return len(serials) == rounds

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(client(number))
        for rounds in range(1, 4):  # noqa: B007
            await until(shown)
            write(tmp_path)
        stop.set()
    assert len(accepted) > 12
    assert set(accepted) == {200}
    assert "Traceback" not in dev.err


async def test_every_port_speaks_tls_1_3_only_and_says_nothing_of_who_does_not(dev: Dev) -> None:
    context = ssl.create_default_context(cadata=AUTHORITY.certificate)
    for port, protocol in ((dev.ports.http, "http/1.1"), (dev.ports.grpc, "h2")):
        context.set_alpn_protocols([protocol])
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == protocol
        writer.transport.abort()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        for _ in range(3):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("localhost", port, ssl=context)
    assert dev.end() == 0
    assert dev.err == ""


async def test_workers_show_one_certificate_and_say_when_its_successor_cannot_be_used(tmp_path: Path) -> None:
    http, grpc, ops = free_port(), free_port(), free_port()
    ports = {"TAS_HTTP_PORT": http, "TAS_GRPC_PORT": grpc, "TAS_OPS_PORT": ops}
    settings = {**write(tmp_path), "TAS_NATS_URL": "nats://127.0.0.1:1", **{name: str(port) for name, port in ports.items()}}
    command = [sys.executable, "-m", "services.ingest", "--workers", "2"]
    program = Program("ingest", command, settings, tmp_path / "ingest.log")
    context = ssl.create_default_context(cadata=AUTHORITY.certificate)
    program.start()
    try:
        async with aiohttp.ClientSession() as session:

            async def page(url: str) -> str:
                try:
                    async with session.get(url, ssl=context) as answer:
                        return await answer.text()
                except aiohttp.ClientError:
                    return ""

            async def serves() -> bool:
                return "ready" in await page(f"https://localhost:{http}/readyz")

            async def both(value: str) -> bool:
                metrics = await page(f"http://localhost:{ops}/metrics")
                return all(f'mcp_certificate_valid{{worker="{worker}"}} {value}' in metrics for worker in (0, 1))

            await until(serves)
            await until(lambda: both("1.0"))
            context.set_alpn_protocols(["h2"])
            _, writer = await asyncio.open_connection("localhost", grpc, ssl=context)
            writer.transport.abort()
            (tmp_path / "cert.pem").write_text("no PEM")
            await until(lambda: both("0.0"))
            assert await serves()
            write(tmp_path)
            await until(lambda: both("1.0"))
    finally:
        program.kill()


async def test_a_certificate_says_who_calls(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY.certificate)
    clients = {name: AUTHORITY.issue(name, uri=f"spiffe://example.org/{name}") for name in ("shop", "ops", "other")}
    settings = {
        "TAS_AUTH": "keys",
        "TAS_TLS_CLIENT_CA_FILE": str(tmp_path / "ca.pem"),
        "TAS_TLS_CALLERS": "spiffe://example.org/shop = events:write, spiffe://example.org/o*s = admin",
    }
    dev = Dev(tmp_path, "--ephemeral", environ={**write(tmp_path), **settings}).running()

    async def answers(name: str) -> list[int]:
        """To an event on the express lane, to one that aiohttp takes, to a request for the targets, and to a subscription."""
        context = ssl.create_default_context(cadata=AUTHORITY.certificate)
        if name:
            own = tmp_path / "own.pem"
            own.write_text(clients[name].certificate + clients[name].key)
            context.load_cert_chain(own)
        body = json.dumps(event("cert")).encode()
        headers = {"Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(ssl=context, force_close=True)
        async with aiohttp.ClientSession(f"https://localhost:{dev.ports.http}", connector=connector, headers=headers) as session:
            found = []
            asked = (("POST", EVENTS, body), ("POST", EVENTS, io.BytesIO(body)), ("GET", TARGETS, None), ("GET", STREAM, None))
            for method, path, given in asked:
                chunked = True if isinstance(given, io.BytesIO) else None
                async with session.request(method, path, data=given, chunked=chunked) as answer:
                    found.append(answer.status)
            return found

    try:
        assert await answers("shop") == [200, 200, 403, 403]
        assert await answers("ops") == [200, 200, 200, 200]
        assert await answers("other") == [401, 401, 401, 401]
        assert await answers("") == [401, 401, 401, 401]
    finally:
        dev.close()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="the commands are those of openssl and curl")
def test_the_commands_of_the_document_work(tmp_path: Path) -> None:
    make, start, _ = (block for block in blocks(SECURITY, "sh") if "tls.crt" in block)
    [sent] = (command for command in commands(SECURITY) if "tls.crt" in command)
    subprocess.run(make, shell=True, cwd=tmp_path, check=True, capture_output=True)
    named = dict(re.findall(r"(TAS_\w+)=(\S+)", start))
    dev = Dev(tmp_path, "--ephemeral", environ={name: str(tmp_path / file) for name, file in named.items()}).running()
    try:
        words = [word.replace(":8080", f":{dev.ports.http}") for word in sent]
        done = subprocess.run([*words, "-sS", "--fail-with-body", "-m", "20"], cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode, b'"accepted"' in done.stdout) == (0, True), shlex.join(words) + done.stderr.decode()
    finally:
        dev.close()
