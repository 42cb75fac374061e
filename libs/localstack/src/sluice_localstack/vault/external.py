"""A Vault that somebody else runs, with the server's surface."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sluice_localstack.component import Check
from sluice_localstack.doctor import guarded
from sluice_localstack.errors import NotReady, SettingInvalid
from sluice_localstack.vault.checks import health_check
from sluice_localstack.vault.connection import AppRole, VaultAddress, VaultClient, VaultLogin, read_secret


def external_vault(environment: Mapping[str, str] | None = None) -> VaultLogin | None:
    """The Vault that the settings give, and who asks there; None if none is given.

    `VAULT_ADDR`; `VAULT_CACERT`, a PEM file of the authorities to trust; `VAULT_TOKEN_FILE`, or `VAULT_ROLE_ID_FILE`
    with `VAULT_SECRET_ID_FILE`. The token itself is never a setting: `VAULT_TOKEN` is not read.

    Raises:
        SettingInvalid: The settings do not fit together, or a file that they name cannot be used.
    """
    settings = os.environ if environment is None else environment
    url = settings.get("VAULT_ADDR")
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise SettingInvalid(f"VAULT_ADDR={url[:80]!r} is no URL; give it as https://host:port")
    address = VaultAddress(url.rstrip("/"), _ca_file(settings.get("VAULT_CACERT")))
    token_file = settings.get("VAULT_TOKEN_FILE")
    role_id, secret_id = settings.get("VAULT_ROLE_ID_FILE"), settings.get("VAULT_SECRET_ID_FILE")
    if bool(role_id) != bool(secret_id) or (token_file and role_id):
        raise SettingInvalid(
            "VAULT_TOKEN_FILE, or VAULT_ROLE_ID_FILE and VAULT_SECRET_ID_FILE: set the one or the other"
        )
    if token_file:
        return VaultLogin(address, read_secret(Path(token_file).expanduser()))
    if role_id and secret_id:
        return VaultLogin(address, approle=AppRole(_absolute(role_id), _absolute(secret_id)))
    return VaultLogin(address)


def given_credentials(environment: Mapping[str, str] | None = None) -> Path | None:
    """The directory with the services' own files, `VAULT_CREDENTIALS_DIRECTORY`; None if none is given."""
    given = (os.environ if environment is None else environment).get("VAULT_CREDENTIALS_DIRECTORY")
    return _absolute(given) if given else None


def given_audit_file(environment: Mapping[str, str] | None = None) -> Path | None:
    """Where the given Vault's audit file can be read on this machine, `VAULT_AUDIT_FILE`; None if none is given."""
    given = (os.environ if environment is None else environment).get("VAULT_AUDIT_FILE")
    return _absolute(given) if given else None


class ExternalVault:
    """A given Vault. Nothing of it is started, stopped or changed: `sluice vault apply` does that, when asked.

    Args:
        login: From `external_vault`.
        audit_file: From `given_audit_file`.

    Attributes:
        audit_file: The file of its audit device, if it can be read here: then its uses are followed.
    """

    name = "vault"

    def __init__(self, login: VaultLogin, audit_file: Path | None = None) -> None:
        self._login = login
        self.audit_file = audit_file

    @property
    def address(self) -> VaultAddress:
        """As given."""
        return self._login.address

    def admin(self) -> VaultClient:
        """A client with the rights of the given login."""
        return VaultClient(self._login)

    @property
    def pid(self) -> int | None:
        """None: it is somebody else's."""
        return None

    def start(self) -> None:
        """See whether it is unsealed and answers.

        Raises:
            NotReady: It is not, or does not.
        """
        health = VaultClient(VaultLogin(self.address)).health()
        if health not in ("active", "standby"):
            raise NotReady(f"Vault at {self.address.url} is {health}; unseal it, or correct VAULT_ADDR or VAULT_CACERT")

    def ready(self) -> bool:
        """Whether it answers now."""
        return VaultClient(VaultLogin(self.address)).health() in ("active", "standby")

    def stop(self) -> None:
        """Nothing: it is somebody else's."""

    def doctor(self) -> list[Check]:
        """Whether it answers, and whether its audit file is followed."""
        return [
            guarded("vault", lambda: health_check(self.address, self.address.url)),
            guarded("vault audit file", self._audit_check),
        ]

    def _audit_check(self) -> Check:
        name, file = "vault audit file", self.audit_file
        if file is None:
            step = "set VAULT_AUDIT_FILE to it, or run `python -m sluice_vault_broker audit` beside that Vault"
            return Check(name, True, "not followed: uses of Vault are not in the log", step)
        if not os.access(file, os.R_OK):
            step = "correct VAULT_AUDIT_FILE, or let this user read the file and its folder"
            return Check(name, False, f"VAULT_AUDIT_FILE={file} can't be read", step)
        return Check(name, True, str(file))


def _ca_file(given: str | None) -> str | None:
    if not given:
        return None
    path = _absolute(given)
    if not path.is_file():
        raise SettingInvalid(f"VAULT_CACERT={given}: there is no such file; it is a PEM file of certificates")
    return str(path)


def _absolute(given: str) -> Path:
    return Path(given).expanduser().absolute()  # the services work in another directory
