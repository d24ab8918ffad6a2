"""``tas secrets``: the secrets of targets, sealed where they are stored."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from services.cli.api import URL, Api, Authority, Key, Url, asked, errors

app = typer.Typer(no_args_is_help=True, help="The secrets of targets, sealed where they are stored.")
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def options() -> None:
    pass


@app.command()
def rotate(
    url: Url = URL,
    key: Key = "",
    authority: Authority = "",
    comment: Annotated[str, typer.Option(help="Why, for the history and the audit log.")] = "secrets rotated",
) -> None:
    """Seal every secret with the first key of TAS_SECRET_KEY_FILE, where it is not.

    All replicas of control and forward must have that key before, and still have the old one below it.
    Ends with 1 where a target could not be done, with 2 where the gateway does not answer.
    """
    rotated, failures = asked(url, key, authority, lambda api: _rotate(api, comment))
    for failure in failures:
        console.print(f"{failure['id']!r}: {failure['detail']}", markup=False)
    console.print(f"sealed anew: {rotated}")
    if failures:
        raise typer.Exit(1)


async def _rotate(api: Api, comment: str) -> tuple[int, list[dict[str, str]]]:
    """How many targets were done, and which could not be."""
    rotated, failures = 0, []
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("targets", total=None)
        cursor: str | None = ""
        while cursor is not None:
            query = {"cursor": cursor} if cursor else {}
            page = await api.call("POST", "/api/v1/secrets/rotate", limit="20", comment=comment, **query)
            rotated += page["rotated"]
            failures += page["failures"]
            cursor = page["next"]
            progress.advance(task, page["matched"])
    return rotated, failures
