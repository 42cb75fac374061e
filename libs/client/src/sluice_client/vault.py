"""Which Vault a command means, and what is put into it by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sluice_client.errors import InputInvalid, NotRunning
from sluice_client.installation import Installation, saved
from sluice_localstack import (
    VaultClient,
    VaultCredentials,
    VaultLogin,
    VaultServer,
    VaultTable,
    external_vault,
    vault_table,
)
from sluice_localstack.files import private_directory
from sluice_localstack.vault.external import given_credentials
from sluice_localstack.vault.keys import KeyFile
from sluice_localstack.vault.opening import open_vault, waiting_at_most
from sluice_localstack.vault.table import PIPELINE_MAX_TTL
from sluice_runtime.roles import load_roles, queues_by_role
from sluice_runtime.vault import names
from sluice_runtime.yaml_files import InvalidFile

OPEN_TIMEOUT_S = 60.0
"""A Vault that was just started answers within seconds."""
_KEY_NAME = re.compile(r"[a-z0-9][a-z0-9_\-]{0,63}")


@dataclass(frozen=True, slots=True)
class TargetVault:
    """A given Vault, or that of the local stack.

    Attributes:
        login: Of the given one; None: the stack's own is meant.
        installation: The stack that runs here; None if none does.
    """

    directory: Path
    login: VaultLogin | None
    installation: Installation | None

    @classmethod
    def find(
        cls, directory: Path, environment: Mapping[str, str] | None = None, keys: Path | None = None
    ) -> TargetVault:
        """The Vault of VAULT_ADDR, else that of the stack in the directory.

        Args:
            directory: Of the local stack.
            environment: Default: this process's.
            keys: A directory with the given Vault's keys: it is initialised once and unsealed by them, and asked with
                its root token.

        Raises:
            NotRunning: Neither is there.
            InputInvalid: There are keys, and no given Vault.
        """
        login = external_vault(environment)
        if keys is not None:
            if login is None:
                raise InputInvalid("--keys is for a given Vault; set VAULT_ADDR (the stack unseals its own)")
            login = _opened(login, KeyFile(private_directory(keys.expanduser().absolute())))
        try:
            return cls(directory, login, saved(directory))
        except NotRunning:
            if login is None:
                raise
            return cls(directory, login, None)

    def client(self) -> VaultClient:
        """Asks as the given login, or as the stack's administrator."""
        return VaultClient(self.login) if self.login is not None else self._server.admin()

    @property
    def audit_path(self) -> str | None:
        """Where the stack's own Vault writes its audit log; None: the given one's owner knows."""
        return None if self.login is not None else self._server.audit_path

    def credentials(self, given: Path | None) -> VaultCredentials:
        """Where the services' files are."""
        named = given or given_credentials()
        if named is not None:
            return VaultCredentials(named.expanduser().absolute())
        private_directory(self.directory)
        return VaultCredentials(private_directory(self.directory / "credentials") / "vault")

    def table(
        self, queues: Sequence[str] | None = None, roles: Path | None = None, pipeline_max_ttl: str | None = None
    ) -> VaultTable:
        """What it shall hold: what is not said is as in the stack that runs here, or as the shipped roles have it."""
        running = self.installation
        if not queues and running is not None and roles is None:
            queues = running.queues
        try:
            known = queues or sorted(set(queues_by_role(load_roles([roles] if roles else [])).values()))
        except InvalidFile as error:
            raise InputInvalid(str(error)) from None
        default = PIPELINE_MAX_TTL if running is None else running.vault_pipeline_max_ttl
        return vault_table(known, pipeline_max_ttl or default)

    @property
    def _server(self) -> VaultServer:
        return VaultServer(self.directory / "vault")


def _opened(login: VaultLogin, keys: KeyFile) -> VaultLogin:
    open_vault(login.address, keys, waiting_at_most(OPEN_TIMEOUT_S, login.address))
    return VaultLogin(login.address, keys.needed().root_token)


def put_api_key(client: VaultClient, provider: str, key: str) -> str:
    """Put a provider's key where pipelines may read it; returns `created`, `updated` or `unchanged`.

    Raises:
        InputInvalid: The name is none.
    """
    if not _KEY_NAME.fullmatch(provider):
        raise InputInvalid(f"{provider[:80]!r} is no provider's name; take lower-case letters, digits, '-' and '_'")
    path = f"{names.API_KEYS_PATH}/{provider}"
    found = client.read(path)
    present = None if found is None else found["data"]["data"]
    if present is not None and present.get(names.API_KEY_FIELD) == key:
        return "unchanged"
    client.write(path, {"data": {**(present or {}), names.API_KEY_FIELD: key}})
    return "updated" if present else "created"
