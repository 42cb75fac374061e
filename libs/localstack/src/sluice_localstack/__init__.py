"""Real Kafka, Vault, ClickHouse and the services on one machine, without Docker."""

from sluice_localstack.cache import cache_directory
from sluice_localstack.component import Check, Component
from sluice_localstack.errors import (
    ChecksumMismatch,
    DirectoryInUse,
    DownloadFailed,
    LocalStackError,
    LoginRefused,
    NotReady,
    ProvisioningFailed,
    SettingInvalid,
    StartFailed,
)
from sluice_localstack.kafka.admin import Admin
from sluice_localstack.kafka.broker import KafkaBroker
from sluice_localstack.kafka.external import ExternalKafka, external_login
from sluice_localstack.progress import OnProgress, Progress
from sluice_localstack.stack import LocalStack
from sluice_localstack.tables import AclRule, Principal, ServiceSpec, TopicSpec
from sluice_localstack.vault.connection import AppRole, VaultAddress, VaultClient, VaultLogin
from sluice_localstack.vault.credentials import VaultCredentials
from sluice_localstack.vault.external import ExternalVault, external_vault
from sluice_localstack.vault.provision import Change, Provisioning
from sluice_localstack.vault.server import VaultServer
from sluice_localstack.vault.table import VaultTable, vault_table

__all__ = [
    "AclRule",
    "Admin",
    "AppRole",
    "Change",
    "Check",
    "ChecksumMismatch",
    "Component",
    "DirectoryInUse",
    "DownloadFailed",
    "ExternalKafka",
    "ExternalVault",
    "KafkaBroker",
    "LocalStack",
    "LocalStackError",
    "LoginRefused",
    "NotReady",
    "OnProgress",
    "Principal",
    "Progress",
    "Provisioning",
    "ProvisioningFailed",
    "ServiceSpec",
    "SettingInvalid",
    "StartFailed",
    "TopicSpec",
    "VaultAddress",
    "VaultClient",
    "VaultCredentials",
    "VaultLogin",
    "VaultServer",
    "VaultTable",
    "cache_directory",
    "external_login",
    "external_vault",
    "vault_table",
]
