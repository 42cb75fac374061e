"""By which files the services log in to Vault: `<role>/role-id` and `<role>/secret-id`, for the owner alone.

A folder for each, so that a container can be given that of its service and no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sluice_localstack.errors import SettingInvalid
from sluice_localstack.files import private_directory, write_private
from sluice_localstack.processes import checked_name
from sluice_localstack.vault.connection import AppRole, VaultAddress, VaultLogin


@dataclass(frozen=True, slots=True)
class VaultCredentials:
    """The directory. A secret stands nowhere else."""

    directory: Path

    def files(self, role: str) -> AppRole:
        """Where a role's files are, or will be."""
        folder = self.directory / checked_name(role)
        return AppRole(folder / "role-id", folder / "secret-id")

    def read(self, role: str) -> tuple[str, str] | None:
        """The RoleID and the SecretID; None if there are no files."""
        found = self.files(role)
        try:
            return found.role_id_file.read_text().strip(), found.secret_id_file.read_text().strip()
        except FileNotFoundError:
            return None

    def write(self, role: str, role_id: str, secret_id: str) -> None:
        """Replace both files."""
        found = self.files(role)
        for folder in (self.directory, found.role_id_file.parent):
            private_directory(folder)
        write_private(found.role_id_file, role_id)
        write_private(found.secret_id_file, secret_id)

    def login(self, role: str, address: VaultAddress) -> VaultLogin:
        """How the role logs in.

        Raises:
            SettingInvalid: It has no files.
        """
        if self.read(role) is None:
            raise SettingInvalid(f"{self.files(role).secret_id_file} is missing; make it: sluice vault apply")
        return VaultLogin(address, approle=self.files(role))
