"""What a Vault shall hold, read from `sluice_runtime/vault/vault.yaml` and the policies beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict

from sluice_localstack.errors import SettingInvalid
from sluice_runtime import yaml_files
from sluice_runtime.vault import names

PIPELINE_MAX_TTL = "24h"
"""The explicit maximum of a pipeline's token: it ends then, however often it was renewed. A pipeline that goes on gets
a new one."""
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class _Mount(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: str
    options: dict[str, str] = {}


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: str
    derived: bool
    exportable: bool
    allow_plaintext_backup: bool


class _Queues(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: _Key


class _File(BaseModel):
    """The YAML file."""

    model_config = ConfigDict(extra="forbid")
    audit: dict[str, _Mount]
    auth: dict[str, _Mount]
    secrets: dict[str, _Mount]
    policies: list[str]
    queues: _Queues
    token_roles: dict[str, dict[str, Any]]
    approle_roles: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Mount:
    """An auth method, a secrets engine or an audit device."""

    type: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VaultTable:
    """Everything a Vault shall hold, by name. Fields and values are those of Vault's API; durations in seconds.

    Attributes:
        policies: Texts, in which `names.TOKEN_ACCESSOR` stands for what only the Vault itself knows.
        services: AppRole roles that have credentials files.
    """

    audit: Mapping[str, Mount]
    auth: Mapping[str, Mount]
    secrets: Mapping[str, Mount]
    policies: Mapping[str, str]
    transit_keys: Mapping[str, Mapping[str, Any]]
    token_roles: Mapping[str, Mapping[str, Any]]
    approle_roles: Mapping[str, Mapping[str, Any]]
    services: tuple[str, ...]


def vault_table(queues: Sequence[str], pipeline_max_ttl: str = PIPELINE_MAX_TTL) -> VaultTable:
    """The table for an installation with these queues.

    Raises:
        SettingInvalid: A queue's name is none that Vault could keep apart, or the time is none.
    """
    content = resources.files("sluice_runtime.vault").joinpath("vault.yaml").read_bytes()
    file = yaml_files.validate(_File, yaml_files.parse(content, "vault.yaml"), "vault.yaml")
    try:
        by_queue = {names.queue_name(queue): names.queue_policy(queue) for queue in sorted(set(queues))}
    except ValueError as error:
        raise SettingInvalid(str(error)) from None
    values = {"{pipeline_max_ttl}": [pipeline_max_ttl], "{queues}": list(by_queue)}
    roles = {name: _filled(row, values) for name, row in file.approle_roles.items()}
    return VaultTable(
        audit={name: Mount(row.type, row.options) for name, row in file.audit.items()},
        auth={name: Mount(row.type, row.options) for name, row in file.auth.items()},
        secrets={name: Mount(row.type, row.options) for name, row in file.secrets.items()},
        policies={name: names.policy_text(name) for name in file.policies} | by_queue,
        transit_keys={name: file.queues.key.model_dump() for name in (names.BROKER_KEY, *by_queue)},
        token_roles={name: _filled(row, values) for name, row in file.token_roles.items()},
        approle_roles={name: {key: row[key] for key in row if key != "service"} for name, row in roles.items()},
        services=tuple(name for name, row in roles.items() if row.get("service")),
    )


def with_audit_mode(table: VaultTable, mode: str) -> VaultTable:
    """The table with audit files of another mode, such as `0640` where a follower of another user reads them.

    Raises:
        SettingInvalid: It is no mode.
    """
    if not re.fullmatch(r"0[0-7]{3}", mode):
        raise SettingInvalid(f"{mode[:80]!r} is no mode of a file; write it as 0640")
    audit = {name: Mount(row.type, {**row.options, "mode": mode}) for name, row in table.audit.items()}
    return replace(table, audit=audit)


def seconds(text: str) -> int:
    """A time such as `90s`, `30m`, `2h`, `1d` in seconds.

    Raises:
        SettingInvalid: It is none.
    """
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise SettingInvalid(f"{text[:80]!r} is no time; write it as 90s, 30m, 2h or 1d")
    return int(found[1]) * _UNITS_S[found[2]]


def _filled(row: Mapping[str, Any], values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with what stands for something put in, and durations in seconds, as Vault tells them."""
    filled: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, list):
            filled[key] = [part for item in value for part in values.get(item, [item])]
        elif key.endswith("_ttl"):
            filled[key] = seconds(values.get(value, [value])[0])
        else:
            filled[key] = value
    return filled
