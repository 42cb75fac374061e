"""`vault`: bringing a Vault to what Sluice needs of it, and putting a key into it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sluice_client.cli import options, output

app = typer.Typer(
    help="Vault: its policies, roles and keys as the table says, and the models' keys.", no_args_is_help=True
)

Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="DIRECTORY",
        help="Initialise the Vault of VAULT_ADDR once, unseal it, and ask as root: its keys stand here, private.",
    ),
]

KEY_MAX_BYTES = 16 * 1024
"""Keys of providers have some hundred bytes; whatever is larger is another file."""


@app.command("apply")
def apply(
    queues: Annotated[
        list[str] | None, typer.Option("--queue", help="A queue; may be repeated. Default: those of the roles.")
    ] = None,
    roles: Annotated[
        Path | None, typer.Option("--roles", metavar="DIRECTORY", help="Roles of your own, for their queues.")
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(
            "--credentials",
            metavar="DIRECTORY",
            help="Where the services' RoleIDs and SecretIDs are written [VAULT_CREDENTIALS_DIRECTORY; the stack's].",
        ),
    ] = None,
    no_credentials: Annotated[
        bool, typer.Option("--no-credentials", help="Make none: you bring the RoleID and SecretID files.")
    ] = False,
    audit_file: Annotated[
        str | None,
        typer.Option("--audit-file", metavar="PATH", help="Of a given Vault's audit device, on that Vault's machine."),
    ] = None,
    audit_mode: Annotated[
        str,
        typer.Option("--audit-mode", metavar="MODE", help="Of that file: 0640 for a follower in Vault's group."),
    ] = "0600",
    pipeline_max_ttl: Annotated[
        str | None,
        typer.Option(
            "--pipeline-max-ttl",
            metavar="TIME",
            help="Explicit maximum of a pipeline's token [default: the stack's, or 24h].",
            envvar="SLUICE_VAULT_PIPELINE_MAX_TTL",
        ),
    ] = None,
    keys: Keys = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Make what is missing in Vault, set what differs, and say which. Deletes nothing.

    The Vault is that of VAULT_ADDR, as whoever VAULT_TOKEN_FILE (or VAULT_ROLE_ID_FILE and VAULT_SECRET_ID_FILE) names;
    else the local stack's. `sluice up` does it for its own Vault at each start.
    """
    from sluice_client.installation import data_directory
    from sluice_client.vault import TargetVault
    from sluice_localstack import Provisioning
    from sluice_localstack.vault.table import with_audit_mode

    vault = TargetVault.find(data_directory(data), keys=keys)
    provisioning = Provisioning(
        vault.client(),
        with_audit_mode(vault.table(queues, roles, pipeline_max_ttl), audit_mode),
        credentials=None if no_credentials else vault.credentials(credentials),
        audit_path=audit_file or vault.audit_path,
        dry_run=dry_run,
    )
    changes = provisioning.run()
    if as_json:
        output.data({"dry_run": dry_run, "changes": [asdict(change) for change in changes]})
        return
    for change in changes:
        if change.state != "unchanged":
            detail = f"   {change.detail}" if change.detail else ""
            output.say(f"{change.state:<8} {change.kind} {change.name}{detail}")
    counts = {state: sum(change.state == state for change in changes) for state in ("created", "updated", "unchanged")}
    would = "would be " if dry_run else ""
    output.say(", ".join(f"{count} {would if state != 'unchanged' else ''}{state}" for state, count in counts.items()))


@app.command("put-key")
def put_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the provider, such as openrouter.")],
    from_file: Annotated[
        Path | None, typer.Option("--from-file", metavar="FILE", help="Holds the key. Default: standard input.")
    ] = None,
    keys: Keys = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Put a provider's key into Vault, where pipelines read it: secret/api-keys/NAME, field `api_key`.

    The key comes by a file or by standard input, never by the command line, which every user of a machine can read.
    """
    from sluice_client.installation import data_directory
    from sluice_client.vault import TargetVault, put_api_key

    client = TargetVault.find(data_directory(data), keys=keys).client()
    state = put_api_key(client, name, _key(from_file))
    if as_json:
        output.data({"name": name, "state": state})
    else:
        output.say(f"{state} secret/api-keys/{name}")


def _key(from_file: Path | None) -> str:
    from sluice_client.errors import InputInvalid

    try:
        if from_file is not None:
            with from_file.open("rb") as stream:
                body = stream.read(KEY_MAX_BYTES + 1)
        elif sys.stdin.isatty():
            body = typer.prompt("key", hide_input=True, err=True).encode()
        else:
            body = sys.stdin.buffer.read(KEY_MAX_BYTES + 1)
        if len(body) > KEY_MAX_BYTES:
            raise InputInvalid(f"the key has more than {KEY_MAX_BYTES} bytes; give the file that holds the key alone")
        key = str(body.decode().strip())
    except OSError as error:
        raise InputInvalid(f"{from_file} can't be read: {error.strerror}; correct the path") from None
    except UnicodeDecodeError:
        raise InputInvalid("the key is no text; give the file that holds the key alone") from None
    if not key:
        raise InputInvalid("the key is empty; give it by --from-file FILE or by standard input")
    return key
