"""How a service that asks Vault is told where it is. Needs `sluice-runtime[vault]`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from sluice_runtime.settings import PREFIX, ServiceSettings
from sluice_runtime.vault.client import VaultPlace

ADDR = Field(pattern=r"^https?://", description="URL of Vault, or OpenBao, such as https://vault:8200.")
ROLE_ID_FILE = Field(description="File with the RoleID of the AppRole of the service's name; read at each login.")
SECRET_ID_FILE = Field(description="File with a SecretID of that AppRole; read at each login.")


class VaultSettings(ServiceSettings):
    """Where Vault is, and how the service logs in there.

    A service that can't be without declares the first three anew, as types without None: then they are required.
    """

    vault_addr: Annotated[str | None, ADDR] = None
    vault_role_id_file: Annotated[Path | None, ROLE_ID_FILE] = None
    vault_secret_id_file: Annotated[Path | None, SECRET_ID_FILE] = None
    vault_ca_file: Path | None = Field(
        default=None, description="PEM file of the authorities of Vault's certificate; default: the system's."
    )
    vault_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="For one call of Vault; then it counts as away."
    )

    @model_validator(mode="after")
    def _can_log_in(self) -> VaultSettings:
        if self.vault_addr is not None and None in (self.vault_role_id_file, self.vault_secret_id_file):
            raise ValueError(
                f"{PREFIX}VAULT_ADDR needs a login: set {PREFIX}VAULT_ROLE_ID_FILE and {PREFIX}VAULT_SECRET_ID_FILE"
            )
        return self

    def vault(self) -> VaultPlace | None:
        """Where Vault is; None in an installation without credentials."""
        if self.vault_addr is None:
            return None
        assert self.vault_role_id_file is not None
        assert self.vault_secret_id_file is not None
        return VaultPlace(
            address=self.vault_addr,
            role_id_file=self.vault_role_id_file,
            secret_id_file=self.vault_secret_id_file,
            ca_file=self.vault_ca_file,
            call_timeout_s=self.vault_timeout_s,
        )

    def known_secrets(self) -> Iterable[str]:
        """See `ServiceSettings.known_secrets`; with the login. Files that are not there yet are waited for."""
        yield from super().known_secrets()
        for file in (self.vault_role_id_file, self.vault_secret_id_file):
            if file is not None and file.is_file():
                secret = file.read_text(errors="replace").strip()
                if secret:
                    yield secret
