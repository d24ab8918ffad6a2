"""The ``tas`` command: the door to the all-in-one gateway, the check of target files, and what asks a running gateway."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.cli import audit, keys, secret
from tas_mcp import __version__, target_files

app = typer.Typer(no_args_is_help=True, add_completion=False, help="TAS MCP, an event gateway.", pretty_exceptions_enable=False)
app.add_typer(audit.app, name="audit")
app.add_typer(keys.app, name="keys")
app.add_typer(secret.app, name="secrets")
console = Console(highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def dev(
    data: Annotated[Path | None, typer.Option(help="Folder for the data [default: the user's state folder].")] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep no data.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Show each delivery on the terminal.")] = False,
    demo_port: Annotated[int, typer.Option(help="Port of the demo receiver.")] = 8089,
    nats_port: Annotated[int, typer.Option(help="Port of the embedded broker.")] = 4222,
) -> None:
    """Run the whole gateway in one process, with an embedded broker.

    Settings come from the environment: TAS_HTTP_PORT, TAS_LOG_LEVEL, TAS_MAX_EVENT_BYTES ...
    """
    from services.dev.main import Options, default_data
    from services.dev.main import dev as run_dev
    from tas_mcp.service import start

    if data and ephemeral:
        raise typer.BadParameter("--data and --ephemeral exclude each other")
    folder = None if ephemeral else data or default_data()

    def say(text: str) -> None:
        console.print(text, markup=False)

    def show(webhook_id: str, body: str) -> None:
        console.print(f"-> {webhook_id} {body}", markup=False, style="green")

    start(run_dev(Options(data=folder, nats_port=nats_port, demo=demo, demo_port=demo_port), say, show))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Files, or folders of them, in YAML or JSON.")],
) -> None:
    """Check target files as TAS_TARGETS_FILE would: all of them, as one whole.

    What refers to an environment variable that is not set here is not checked. Ends with 1 where anything is wrong.
    """
    checked = target_files.check(target_files.load(files), os.environ, offline=True)
    for problem in checked.problems:
        console.print(str(problem), markup=False)
    if checked.problems:
        raise typer.Exit(1)
    console.print(f"valid targets: {checked.written}")


def main() -> None:
    app()
