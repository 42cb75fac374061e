"""Options that several commands have, and what they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sluice_client.client import Sluice
    from sluice_client.installation import Installation

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="The api of another installation [SLUICE_URL].")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIRECTORY", help="Of the local stack [SLUICE_DATA_DIRECTORY; .sluice/stack]."),
]
WaitS = Annotated[int, typer.Option("--wait-s", min=0, max=30, help="Seconds to wait for the effect; 0: do not.")]
PipelineId = Annotated[str, typer.Argument(metavar="ID", help="The pipeline's id.", show_default=False)]


def installation(url: str | None, data: Path | None) -> Installation:
    """The installation that a command means."""
    from sluice_client.installation import find

    return find(url=url, data=data)


def client(url: str | None, data: Path | None, tenant: str = "default") -> Sluice:
    """A client of the installation that a command means."""
    address = installation(url, data).needed_api_url()
    from sluice_client.client import Sluice  # loads httpx: not where there is nobody to ask

    return Sluice(address, tenant=tenant)
