"""The `sluice` command.

A command's module is imported at the start, and must be light; what it works with is imported when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from sluice_client.cli import (
    budgets,
    commands,
    dead_letters,
    demonstration,
    output,
    reading,
    running,
    safeguards,
    stack,
    topics,
    vault,
    watching,
)
from sluice_client.cli.exits import EPILOG, INTERRUPTED, OK, USAGE, exit_code

app = typer.Typer(
    name="sluice",
    help="Runs teams of agents as pipelines of events, and shows what they do.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.say(f"sluice {version('sluice-client')}")
        raise typer.Exit(OK)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


for module in (stack, running, watching, reading, commands, safeguards):
    module.add_to(app)
app.add_typer(topics.app, name="topics")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(vault.app, name="vault")
app.add_typer(budgets.app, name="budgets")
demonstration.add_to(app)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code. What goes wrong is one line on standard error."""
    as_json = "--json" in arguments
    command = get_command(app)
    try:
        # Not its `main`, which answers a broken pipe and Ctrl-C in its own way.
        with command.make_context("sluice", list(arguments) or ["--help"]) as context:
            command.invoke(context)
        return OK
    except typer.Exit as end:
        return end.exit_code
    except TyperException as error:
        output.usage(getattr(error, "format_message", error.__str__)(), as_json=as_json)
        return USAGE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        output.quiet_end()
        return OK  # the reader has seen enough, as `head` does
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        output.error(str(error), as_json=as_json, code=type(error).__name__)
        return code
