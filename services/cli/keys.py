"""``tas keys``: the API keys of a gateway."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from services.cli.api import URL, Api, Authority, Key, Url, asked, errors
from tas_mcp.callers import SCOPES

PATH = "/api/v1/keys"
PAGE = "1000"

app = typer.Typer(no_args_is_help=True, help="The API keys.")
console = Console(highlight=False, soft_wrap=True)

Scopes = Annotated[list[str], typer.Option("--scope", help=f"What it allows: {', '.join(sorted(SCOPES))}.")]
Expires = Annotated[str, typer.Option("--expires", help="After how long it ends, such as 90d [default: when it is revoked].")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The part of a key between its first two `_`.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who gets it.")],
    scopes: Scopes,
    event_types: Annotated[list[str] | None, typer.Option("--event-type", help="Only for such event types, as globs.")] = None,
    sources: Annotated[list[str] | None, typer.Option("--source", help="Only for such sources, as globs.")] = None,
    expires: Expires = "",
    url: Url = URL,
    key: Key = "",
    authority: Authority = "",
) -> None:
    """Make a key. It is printed this once; what it is for goes to standard error."""
    body = {"name": name, "scopes": scopes, "event_types": event_types or [], "sources": sources or [], **_lifetime(expires)}
    _show_new(asked(url, key, authority, lambda api: api.call("POST", PATH, body)))


@app.command("list")
def list_keys(url: Url = URL, key: Key = "", authority: Authority = "") -> None:
    """Show the keys, without their secrets."""
    table = Table("id", "name", "scopes", "event types", "sources", "made", "by", "ends", box=None, pad_edge=False)
    for each in asked(url, key, authority, _all):
        if "invalid" in each:
            table.add_row(each["id"], f"cannot be read: {each['invalid']}")
            continue
        lists = (", ".join(each[name]) or "all" for name in ("scopes", "event_types", "sources"))
        table.add_row(each["id"], each["name"], *lists, _day(each["created_at"]), each["created_by"], _day(each["expires_at"]))
    Console(highlight=False, width=None if console.is_terminal else 200).print(table, markup=False)


@app.command()
def revoke(key_id: Id, url: Url = URL, key: Key = "", authority: Authority = "") -> None:
    """End a key, at once."""
    answer = asked(url, key, authority, lambda api: api.call("DELETE", f"{PATH}/{key_id}"))
    console.print(f"revoked: {key_id}" + _unless(answer), markup=False)


@app.command()
def rotate(
    key_id: Id,
    overlap: Annotated[str, typer.Option(help="How long the old one lets in besides the new one.")] = "24h",
    expires: Expires = "",
    url: Url = URL,
    key: Key = "",
    authority: Authority = "",
) -> None:
    """Make a new key in the place of an old one. It is printed this once; the rest goes to standard error."""
    body = {"overlap": overlap, **_lifetime(expires)}
    answer = asked(url, key, authority, lambda api: api.call("POST", f"{PATH}/{key_id}/rotate", body))
    _show_new(answer)
    errors.print(f"{answer['replaces']['id']} lets in until {_day(answer['replaces']['expires_at'])}", markup=False)


async def _all(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query = {"limit": PAGE}
    while True:
        page = await api.call("GET", PATH, **query)
        found += page["items"]
        if page["next"] is None:
            return found
        query["cursor"] = page["next"]


def _show_new(made: dict[str, Any]) -> None:
    errors.print(f"{made['id']}: {made['name']}, {', '.join(made['scopes'])}, ends: {_day(made['expires_at'])}", markup=False)
    if lag := _unless(made):
        errors.print(lag.removeprefix("; "), markup=False)
    console.print(made["key"], markup=False)


def _lifetime(expires: str) -> dict[str, str]:
    return {"expires_in": expires} if expires else {}


def _unless(answer: dict[str, Any]) -> str:
    return "" if "in_force" not in answer else "; some service does not work by it yet"


def _day(at: float | None) -> str:
    return "when revoked" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
