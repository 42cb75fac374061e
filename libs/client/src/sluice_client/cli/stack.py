"""up, down, doctor: the installation on this machine."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_client.cli import options, output
from sluice_client.cli.exits import ERROR, OK

if TYPE_CHECKING:
    from sluice_client.installation import Installation
    from sluice_localstack import Check

READY_TIMEOUT_S = 2.0
"""A probe is answered from memory."""


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready, and leave it running.")
    ] = False,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Start the installation on this machine: Kafka, Vault, ClickHouse, the services.

    Ctrl-C, or `sluice down`, ends it. KAFKA_BOOTSTRAP_SERVERS (with KAFKA_USERNAME and KAFKA_PASSWORD_FILE), VAULT_ADDR
    and CLICKHOUSE_URL use what is given instead.
    OPENROUTER_API_KEY answers with a live model; without it, scenarios do. SLUICE_… settings of the services are handed
    on to them.
    """
    from sluice_client.environment import stack_settings
    from sluice_client.installation import data_directory
    from sluice_client.running import start_in_background

    directory = data_directory(data)
    settings = stack_settings(directory)  # wrong settings are told here, also by --detach
    if detach:
        installation = start_in_background(directory, [], output.note)
        _summary(installation, as_json, detached=True)
        return
    raise typer.Exit(_foreground(settings, as_json))


def _foreground(settings: object, as_json: bool) -> int:
    from sluice_client.cli.progress import StepLines
    from sluice_client.running import running_stack
    from sluice_client.wiring import Settings

    assert isinstance(settings, Settings)
    began = time.monotonic()
    try:
        with running_stack(settings, StepLines()) as (stack, installation):
            output.note(f"ready after {time.monotonic() - began:.1f} s")
            _summary(installation, as_json, detached=False)
            try:
                stack.wait()
            finally:
                output.note("ending …")
    except (KeyboardInterrupt, SystemExit):
        output.note("ended; the data is kept")
        return OK
    return OK


def _summary(installation: Installation, as_json: bool, *, detached: bool) -> None:
    if as_json:
        output.data(asdict(installation))
        return
    directory = Path(installation.data_directory or ".")
    model = (
        "scenarios (no model key was given)"
        if installation.model_provider == "scripted"
        else installation.model_provider
    )
    rows = [
        ("api", f"{installation.api_url}   OpenAPI: /openapi.json, live: /ws/events"),
        ("sql", f"{installation.sql_url}   ClickHouse's HTTP interface, read only"),
        ("kafka", f"{installation.kafka}   SASL/SCRAM; users' credentials: {installation.credentials_directory}"),
        (
            "vault",
            f"{installation.vault_addr}   AppRole; the services' files: {installation.vault_credentials_directory}",
        ),
        ("models", model),
        ("data", f"{directory}   logs: {directory / 'logs'}"),
    ]
    for name, text in rows:
        output.say(f"  {name:<8}{text}")
    end = "sluice down" if detached else "Ctrl-C"
    output.say(f"  next    sluice run examples/incident/plan.yaml --watch · sluice list --all · {end} ends it")


def down(data: options.Data = None, as_json: options.AsJson = False) -> None:
    """End the installation on this machine, or what is left of a killed one. The data stays."""
    from sluice_client.installation import data_directory
    from sluice_client.running import end

    directory = data_directory(data)
    done = end(directory)
    if as_json:
        output.data({"data_directory": str(directory), "done": done})
    else:
        output.say(done)


def doctor(data: options.Data = None, as_json: options.AsJson = False) -> None:
    """Look for what could keep the installation from working. Changes nothing; exit code 1 if something would.

    A line marked `note` hinders nothing: it tells what the next start does.
    """
    from sluice_client.environment import stack_settings
    from sluice_client.installation import data_directory
    from sluice_client.wiring import compose

    directory = data_directory(data)
    checks = [*compose(stack_settings(directory)).doctor(), *_service_checks(directory)]
    if as_json:
        output.data([asdict(one) for one in checks])
    else:
        for check in checks:
            _told(check)
    raise typer.Exit(OK if all(check.ok for check in checks) else ERROR)


def _service_checks(directory: Path) -> list[Check]:
    """The services of a stack that another process runs."""
    from sluice_client.installation import holder
    from sluice_client.wiring import API, AUDIT, BROKER, MONITOR, RUNNER, SPAWNER, STORE
    from sluice_localstack import Check
    from sluice_localstack.ports import stored_ports

    if holder(directory) is None:
        return []
    ports = stored_ports(directory)
    found = []
    followed = (AUDIT,) if AUDIT in ports else ()  # there is none where a given Vault's audit file can't be read here
    for name in (SPAWNER, BROKER, *followed, RUNNER, MONITOR, STORE, API):
        ready, detail = _ready(ports[name]) if name in ports else (False, "has no port yet")
        log = directory / "logs" / f"{name}.log"
        found.append(Check(f"service {name}", ready, detail, "" if ready else f"read {log}"))
    return found


def _ready(port: int) -> tuple[bool, str]:
    import httpx

    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=READY_TIMEOUT_S, trust_env=False)
    except httpx.TransportError as error:
        return False, f"port {port} does not answer ({type(error).__name__})"
    if answer.is_success:
        return True, f"ready on port {port}"
    return False, f"port {port}: {answer.text[:200]}"


def _told(check: Check) -> None:
    mark, colour = ("FAIL", "1;31") if not check.ok else ("note", "33") if check.next_step else ("ok  ", "32")
    if output.colours(sys.stdout):
        mark = f"\x1b[{colour}m{mark}\x1b[0m"
    next_step = f" → {output.clean(check.next_step)}" if check.next_step else ""
    print(f"{mark} {check.name:<20} {output.clean(check.detail)}{next_step}", flush=True)


def add_to(app: typer.Typer) -> None:
    """Makes the commands known."""
    for command in (up, down, doctor):
        app.command()(command)
