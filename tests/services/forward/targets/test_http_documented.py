"""Every example of an HTTP target in docs/targets.md delivers, to servers that are put in the place of its hosts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from services.forward.targets import open_sender
from tas_mcp import targets
from tests.certificates import Authority
from tests.services.forward.rig import OPEN
from tests.services.forward.targets.test_http import Server, event, secured, serving
from tests.services.forward.token_endpoint import TokenEndpoint, issuing

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "targets.md").read_text()
EXAMPLES = {
    each["id"]: each
    for each in map(json.loads, re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    if each["type"] in ("http", "webhook")
}


def here(document: dict[str, Any], server: Server, endpoint: TokenEndpoint) -> dict[str, Any]:
    text = json.dumps(document).replace("https://id.example/oauth2/token", f"http://127.0.0.1:{endpoint.port}/token")
    return json.loads(re.sub(r"https://[a-z]+\.example", f"http://127.0.0.1:{server.port}", text))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [name for name, each in EXAMPLES.items() if "tls" not in each["config"]])
async def test_an_example(name: str) -> None:
    async with serving() as server, issuing() as endpoint:
        target, _ = targets.check(here(EXAMPLES[name], server, endpoint))
        async with open_sender(target, OPEN) as sender:
            assert await sender.send(event()) == 200
        [(path, headers, body)] = server.seen
    match name:
        case "orders":
            assert path == "/hooks?tenant=7&source=gateway"
            assert (headers["authorization"], headers["x-team"]) == ("Bearer s3cr3t-t0k3n", "orders")
            Webhook(EXAMPLES[name]["config"]["signing_secret"]).verify(body, headers)
        case "crm":
            assert (path, server.methods, body) == ("/events?key=k3y", ["PUT"], b'{"n": 1}')
        case "billing":
            assert (headers["authorization"], json.loads(body)["specversion"]) == ("Bearer t1", "1.0")
        case "partners":
            hmac, key = EXAMPLES[name]["config"]["signing_secret"]
            Webhook(hmac).verify(body, headers)
            assert len(headers["webhook-signature"].split()) == 2
            assert key.startswith("whsk_")
        case _:
            raise AssertionError(f"say what {name} is to send")


async def test_the_example_with_certificates() -> None:
    authority = Authority()
    client = authority.issue("client")
    shown = EXAMPLES["ledger"]["config"]["tls"]
    async with secured(authority, authority.issue(host=shown["server_name"])) as port:
        document = {**EXAMPLES["ledger"], "endpoint": f"https://localhost:{port}/"}
        pem = {"ca": authority.certificate, "certificate": client.certificate, "key": client.key}
        document["config"] = {**document["config"], "tls": {**shown, **pem}}
        async with open_sender(targets.check(document)[0], OPEN) as sender:
            assert await sender.send(event()) == 200
