"""The broker that we ship: what it keeps is encrypted when it has a key, and it speaks TLS when it has a certificate."""

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tas_mcp.broker import BrokerError, Connection, JetStream, Publisher
from tas_mcp.broker.jetstream import STREAM_NOT_FOUND
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime
from tas_mcp.settings import ServiceSettings
from tests.certificates import Authority
from tests.e2e.system import BIN, ROOT, SERVICES, Program, broker, until
from tests.e2e.test_docs import blocks
from tests.ports import free_port

PASSWORDS = {name: secrets.token_hex(32) for name in (*SERVICES, "system")}
KEY = secrets.token_hex(32)
PLANTED = b"a text that is to be found on no disk"


@asynccontextmanager
async def controlling(program: Program, port: int) -> AsyncIterator[Connection]:
    """A link of control to a broker that runs while inside."""
    connection = Connection(
        [f"nats://127.0.0.1:{port}"], "test", user="control", password=PASSWORDS["control"], inbox_prefix="_INBOX_control"
    )
    program.start()
    try:
        async with connection.running():
            await connected(connection, program)
            yield connection
    finally:
        program.kill()


async def connected(connection: Connection, program: Program) -> None:
    async def is_connected() -> bool:
        assert program.alive, program.tail()
        return connection.connected

    await until(is_connected, what="the link to the broker")


def on_disk(folder: Path) -> bool:
    return any(PLANTED in path.read_bytes() for path in (folder / "js").rglob("*") if path.is_file())


@pytest.mark.parametrize("key", ["", KEY], ids=["without a key", "with a key"])
async def test_what_is_stored_is_encrypted_with_a_key(tmp_path: Path, key: str) -> None:
    port = free_port()
    program = broker(tmp_path, port, PASSWORDS, TAS_NATS_STORE_KEY=key)
    async with controlling(program, port) as connection:
        stream = {"name": "EVENTS", "subjects": ["tas.events.>"], "storage": "file", "allow_direct": True}
        await JetStream(connection).call("STREAM.CREATE.EVENTS", stream)
        publisher = Publisher(connection)
        async with publisher.running():
            await publisher.store("tas.events.planted", PLANTED)
    assert on_disk(tmp_path) is (key == "")
    async with controlling(program, port) as connection:  # killed, started again
        found = await JetStream(connection).message("EVENTS", 1)
        assert found is not None
        assert found.data == PLANTED
    async with controlling(broker(tmp_path, port, PASSWORDS, TAS_NATS_STORE_KEY=KEY[::-1]), port) as connection:
        if key:  # it had another
            with pytest.raises(BrokerError) as caught:
                await JetStream(connection).stream_info("EVENTS")
            assert caught.value.err_code == STREAM_NOT_FOUND
        else:  # it had none
            assert await JetStream(connection).message("EVENTS", 1)
    assert not on_disk(tmp_path)


async def test_it_speaks_tls_to_services(tmp_path: Path) -> None:
    authority, port = Authority(), free_port()
    pair = authority.issue()
    for name, text in (("ca", authority.certificate), ("cert", pair.certificate), ("key", pair.key)):
        (tmp_path / name).write_text(text)
    files = {"TAS_NATS_TLS_CERT_FILE": str(tmp_path / "cert"), "TAS_NATS_TLS_KEY_FILE": str(tmp_path / "key")}
    program = broker(tmp_path, port, PASSWORDS, "nats-tls.conf", **files)
    settings = ServiceSettings(
        nats_url=f"tls://localhost:{port}",
        nats_user="control",
        nats_password=PASSWORDS["control"],
        nats_ca_file=str(tmp_path / "ca"),
    )
    program.start()
    try:
        async with Runtime("control", settings, Ops()).running() as runtime:
            await connected(runtime.connection, program)
            assert await JetStream(runtime.connection).call("INFO")
        plain = Connection([f"nats://127.0.0.1:{port}"], "test", user="control", password=PASSWORDS["control"])
        async with plain.running():

            async def refused() -> bool:
                return "cannot connect" in plain.trouble

            await until(refused, what="the refusal")
    finally:
        program.kill()


@pytest.mark.skipif(not shutil.which("openssl"), reason="the document's passwords are made by openssl")
async def test_the_commands_of_the_document_start_it(tmp_path: Path) -> None:
    port = free_port()
    [commands] = [block for block in blocks(ROOT / "docs" / "security.md", "sh") if "nats-server" in block]
    for given, ours in (("nats-server", f"exec {BIN}/nats-server -a 127.0.0.1 -p {port}"), ("/var/lib/tas-nats", str(tmp_path))):
        assert given in commands
        commands = commands.replace(given, ours)
    program = Program("nats", ["bash", "-c", "set -eu\n" + commands], {}, tmp_path / "nats.log")
    program.start()
    try:

        async def ready() -> bool:
            assert program.alive, program.tail()
            return "Server is ready" in program.tail(100_000)

        await until(ready, what="the broker")
        assert "Encryption:" in program.tail(100_000)
    finally:
        program.kill()
