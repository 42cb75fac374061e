"""Kafka, for the few commands that write there themselves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from sluice_client.errors import InputInvalid, Unreachable
from sluice_client.installation import Installation
from sluice_contracts.topics import Principal
from sluice_runtime.broker import Broker, BrokerUnavailable
from sluice_runtime.connection import CredentialsError, KafkaConnection
from sluice_runtime.kafka.broker import KafkaBroker


@contextlib.asynccontextmanager
async def kafka_as(installation: Installation, principal: Principal, client_id: str) -> AsyncIterator[Broker]:
    """The installation's Kafka, as one of its principals.

    Raises:
        NotRunning: The credentials are not known here.
        InputInvalid: They can't be used.
        Unreachable: Kafka does not answer.
    """
    try:
        connection = KafkaConnection.from_file(installation.credentials_file(principal))
    except CredentialsError as error:
        raise InputInvalid(str(error)) from None
    if installation.kafka is not None:
        connection = replace(connection, bootstrap_servers=installation.kafka)
    async with KafkaBroker(connection, prefix=installation.topic_prefix, client_id=client_id) as broker:
        try:
            yield broker
        except BrokerUnavailable as error:
            raise Unreachable(
                f"Kafka at {connection.bootstrap_servers} does not answer ({error}); is it running?"
            ) from error
