"""Secrets of every kind are planted in a whole gateway, which is then given every occasion to show them: in answers, errors, the
audit log, metrics, its own log, and what the broker keeps on disk."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.e2e.test_dev import Dev, until
from tests.planted import Planted, leaks, planted
from tests.ports import free_port

ADMIN = "plant-admin-key-0123456789-0123456789"
SEALING = "cGxhbnRlZC1zZWFsaW5nLWtleS1vZi0zMi1ieXRlczE="
"""32 bytes in base64."""
CREDENTIAL = "plant-wrong-credential-0123456789"
TARGETS = "/api/v1/forwarding/targets"
IN_THE_CLEAR = ("signed", "bearer", "basic", "header", "query", "userinfo", "argo")
"""Targets whose requests hold a secret, and are answered."""


class Echo(BaseHTTPRequestHandler):
    """Refuses whatever comes, and shows in its answer what that was."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = f"{self.path}\n{self.headers}\n{body.decode()}".encode()
        self.server.seen.append(said.decode())  # type: ignore[attr-defined]
        self.send_response(400)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def echoing() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    seen: list[str] = []
    server.seen = seen  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Talk:
    """Asks the gateway, and keeps everything that it answers."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.heard: list[str] = []

    def ask(self, method: str, path: str, body: Any = None, key: str = ADMIN) -> tuple[int, Any]:
        data = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        request = urllib.request.Request(self._base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return self._keep(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return self._keep(error.code, error.headers, error.read())

    def _keep(self, status: int, headers: Any, body: bytes) -> tuple[int, Any]:
        self.heard.append(f"{headers}\n{body.decode()}")
        try:
            return status, json.loads(body)
        except ValueError:
            return status, None


def test_no_secret_ever_comes_out(tmp_path: Path) -> None:
    (tmp_path / "admin").write_text(ADMIN)
    (tmp_path / "keys").write_text(f"k1:{SEALING}\n")
    environ = {
        "TAS_ADMIN_KEY_FILE": str(tmp_path / "admin"),
        "TAS_SECRET_KEY_FILE": str(tmp_path / "keys"),
        "TAS_LOG_LEVEL": "debug",
        "TAS_GRPC_PORT": "0",
    }
    with echoing() as (endpoint, seen):
        secrets = planted(endpoint, f"127.0.0.1:{free_port()}")
        dev = Dev(tmp_path, "--data", str(tmp_path / "data"), environ=environ).running()
        try:
            talk = Talk(dev.base)
            use(talk, secrets)
            refuse(talk, secrets)
            read(talk, secrets)
            assert dev.end() == 0
        finally:
            dev.close()
    assert {name for name in IN_THE_CLEAR if leaks("\n".join(seen), own(secrets, name))} == set(IN_THE_CLEAR)
    wanted = [*secrets.secrets, ADMIN, SEALING, CREDENTIAL]
    places = {"an answer": "\n".join(talk.heard), "the log": dev.out + dev.err, "the disk": stored(tmp_path / "data")}
    for what, text in places.items():
        found = leaks(text, wanted)
        assert found == [], f"{what} holds {found}: {around(text, found)}"


def own(secrets: Planted, name: str) -> list[str]:
    """The secrets of one target."""
    document = json.dumps(secrets.documents[name])
    return [each for each in secrets.secrets if each in document]


def use(talk: Talk, secrets: Planted) -> None:
    """Make the targets, have a delivery to each fail, and change them."""
    quick = {"timeout": "2s", "retry": {"schedule": []}}
    for target_id, document in secrets.documents.items():
        status, answer = talk.ask("PUT", f"{TARGETS}/{target_id}", {**document, "config": {**document["config"], **quick}})
        assert status == 200, answer
    assert talk.ask("POST", "/api/v1/events", {"event_type": "a.b", "source": "test"})[0] == 200
    for target_id in secrets.documents:
        assert talk.ask("POST", f"{TARGETS}/{target_id}/test")[1]["delivered"] is False
    until(lambda: len(talk.ask("GET", "/api/v1/dead-letters")[1]["items"]) >= len(IN_THE_CLEAR), "the dead letters")
    for target_id in secrets.documents:
        _, shown = talk.ask("GET", f"{TARGETS}/{target_id}")
        assert talk.ask("PUT", f"{TARGETS}/{target_id}", {**shown, "name": "changed"})[0] == 200
        first, second = [each["revision"] for each in talk.ask("GET", f"{TARGETS}/{target_id}/revisions")[1]["items"]][::-1]
        talk.ask("GET", f"{TARGETS}/{target_id}/revisions/{first}")
        talk.ask("GET", f"{TARGETS}/{target_id}/revisions/{first}/diff/{second}")
        assert talk.ask("POST", f"{TARGETS}/{target_id}/rollback", {"revision": first})[0] == 200
    assert talk.ask("POST", "/api/v1/secrets/rotate")[0] == 200


def refuse(talk: Talk, secrets: Planted) -> None:
    """Have secrets refused: in documents that are not valid, in bodies that are none, and as credentials."""
    for document in secrets.documents.values():
        text = json.dumps({**document, "id": "x"})
        for changed in (
            {**document, "id": "x", "enabled": "maybe"},
            {**document, "id": "x", "config": {**document["config"], "unknown": own(secrets, document["id"])[0]}},
            {**document, "id": "x", "endpoint": f"http://me:{own(secrets, document['id'])[0]}/"},
            {**document, "id": "x", "type": "pigeon"},
            text[:-1],
            f"[{text}",
        ):
            assert talk.ask("POST", TARGETS, changed)[0] in (400, 422), changed
        talk.ask("POST", "/api/v1/rules:test", {"event": {"event_type": "a", "source": "b"}, "target": json.loads(text)})
    for path in ("/api/v1/events", TARGETS, "/api/v1/events/batch", "/api/v1/audit/log"):
        assert talk.ask("GET" if path.endswith("log") else "POST", path, None, CREDENTIAL)[0] == 401


def read(talk: Talk, secrets: Planted) -> None:
    """Read all that can be read, once the audit log knows of the wrong credential."""

    def failures() -> bool:
        return any(each["kind"] == "authentication" for each in talk.ask("GET", "/api/v1/audit/log?limit=1000")[1]["items"])

    until(failures, "the record of a wrong credential")
    for path in ("", "?format=list", *(f"/{target_id}" for target_id in secrets.documents)):
        assert talk.ask("GET", TARGETS + path)[0] == 200
    for path in ("revisions?limit=1000", "dead-letters?limit=1000", "rejected", "keys", "stats", "schemas"):
        assert talk.ask("GET", f"/api/v1/{path}")[0] == 200
    for letter in talk.ask("GET", "/api/v1/dead-letters?limit=1000")[1]["items"]:
        talk.ask("GET", f"/api/v1/dead-letters/{letter['id']}")
    for path in ("/metrics", "/ready", "/health", "/openapi.json"):
        talk.ask("GET", path)


def stored(folder: Path) -> str:
    """All that the broker wrote."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".blk") for path in files)
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


def around(text: str, found: list[str]) -> str:
    where = text.find(found[0][:20]) if found else 0
    return text[max(0, where - 300) : where + 50]
