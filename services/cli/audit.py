"""``tas audit``: whether the audit log is what was written."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.api import FAILED, URL, Api, Authority, Key, Url, asked, errors
from tas_mcp.chain import Fault, Heads, Verification

PAGE = "1000"
SHOWN_FAULTS = 1000

app = typer.Typer(no_args_is_help=True, help="The audit log.")
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def options() -> None:
    pass


@app.command()
def verify(
    url: Url = URL,
    key: Key = "",
    authority: Authority = "",
    heads: Annotated[
        Path | None, typer.Option(help="A file that says where the log ended: held against it, then renewed.")
    ] = None,
) -> None:
    """Look for records that were edited, left out, repeated, put in or moved.

    What was cut off at the end, or written anew as a whole, is found with --heads: keep that file where nobody comes who could do
    that. Ends with 1 where anything is wrong, with 2 where the log cannot be read.
    """
    try:
        known = msgspec.json.decode(heads.read_bytes(), type=Heads) if heads and heads.exists() else None
    except (OSError, msgspec.MsgspecError) as error:
        errors.print(f"error: {heads}: {error}", markup=False)
        raise typer.Exit(FAILED) from None
    verification = Verification(known)
    faults = asked(url, key, authority, lambda api: _verify(api, verification))
    for fault in faults[:SHOWN_FAULTS]:
        console.print(f"{fault.seq}: {fault.detail}", markup=False)
    if faults:
        console.print(f"faults: {len(faults)}")
        raise typer.Exit(1)
    console.print(_summary(verification), markup=False)
    if heads:
        heads.write_bytes(msgspec.json.encode(verification.heads) + b"\n")


async def _verify(api: Api, verification: Verification) -> list[Fault]:
    """Read the whole log; all that is wrong with it."""
    faults: list[Fault] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    state = (await api.call("GET", "/api/v1/stats"))["streams"]["AUDIT"]
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("records", total=state["messages"])
        cursor: str | None = str(max(1, state["first_seq"]))
        while cursor is not None:
            page = await api.call("GET", "/api/v1/audit/log", limit=PAGE, cursor=cursor)
            for item in page["items"]:
                faults += verification.take(item)
            cursor = page["next"]
            progress.advance(task, len(page["items"]))
    return [*faults, *verification.end()]


def _summary(verification: Verification) -> str:
    heads = verification.heads
    if not heads.seq:
        return "the log is empty"
    lines = [f"intact: records {verification.first} to {heads.seq}, of {len(heads.writers)} writers"]
    if verification.first > 1:
        lines.append(f"those before {verification.first} made room for newer ones, or were cut off: that cannot be told apart")
    if verification.unchained:
        lines.append(f"the first {verification.unchained} are older than the chain: they cannot be verified")
    return "\n".join(lines)
