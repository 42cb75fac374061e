"""What the follower of the audit file can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sluice_runtime.settings import ServiceSettings


class AuditSettings(ServiceSettings):
    """The settings of every service, and where the file is."""

    vault_audit_file: Path = Field(description="File of Vault's audit device, read where it lies.")
