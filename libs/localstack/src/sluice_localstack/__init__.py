"""Real Kafka, ClickHouse and the services on one machine, without Docker."""

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

__all__ = [
    "AclRule",
    "Admin",
    "Check",
    "ChecksumMismatch",
    "Component",
    "DirectoryInUse",
    "DownloadFailed",
    "ExternalKafka",
    "KafkaBroker",
    "LocalStack",
    "LocalStackError",
    "LoginRefused",
    "NotReady",
    "OnProgress",
    "Principal",
    "Progress",
    "ProvisioningFailed",
    "ServiceSpec",
    "SettingInvalid",
    "StartFailed",
    "TopicSpec",
    "cache_directory",
    "external_login",
]
