"""The beginning and the end of aiokafka's clients. The end is bounded, whatever the broker does.

Left alone, a producer that is stopped waits until all it holds is delivered, however long the broker is away, and one
whose stop is cancelled goes on delivering. So a client that does not end in time is killed. aiokafka has no call for
that; what is reached into here is looked at by tests/conformance/test_clients.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from aiokafka.conn import CloseReason


@dataclass(frozen=True, slots=True)
class KafkaTimeouts:
    """How long aiokafka's clients are waited for, which try for ever while the broker is away.

    Attributes:
        write_s: After it the outcome of a write counts as unknown.
        read_stalled_s: After so long without a record a read is given up.
        stop_s: A client that does not end in order within it is killed.
    """

    write_s: float = 20.0
    read_stalled_s: float = 30.0
    stop_s: float = 5.0


_CANCELS_MAX_COUNT = 1_000
"""A task of aiokafka's that is cancelled waits for its requests, until it is cancelled once more: three are enough."""

Client = TypeVar("Client", AIOKafkaProducer, AIOKafkaConsumer)


async def started(client: Client, timeouts: KafkaTimeouts) -> Client:
    """Starts a client, and leaves nothing behind where that fails."""
    try:
        await client.start()
    except BaseException:
        await stop(client, timeouts)
        raise
    return client


async def stop(client: Client, timeouts: KafkaTimeouts) -> None:
    """Ends a client in order, or, if that takes too long, by `kill`.

    What a producer held is delivered by then, or never will be.

    Raises:
        Exception: As aiokafka found while it stopped; the client has ended.
    """
    try:
        async with asyncio.timeout(timeouts.stop_s):
            await client.stop()
    except TimeoutError:
        kill(client)
    except BaseException:
        kill(client)
        raise


def kill(client: Client) -> None:
    """Ends a client now: it sends nothing any more, and whoever waits for an answer gets an error."""
    tasks: list[asyncio.Task[Any] | None]
    error = errors.KafkaConnectionError("the client was given up")
    client._closed = True
    if isinstance(client, AIOKafkaProducer):
        kafka, tasks = client.client, [client._sender.sender_task]
        _fail(client, error)
    else:
        kafka, coordinator = client._client, client._coordinator
        fetcher: Any = client._fetcher
        names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
        tasks = [getattr(coordinator, name, None) for name in names]
        tasks += [] if fetcher is None else [fetcher._fetch_task, *fetcher._pending_tasks]
    for connection in list(kafka._conns.values()):
        if connection._writer is not None:
            connection._writer.transport.abort()  # a close waits until what was written has gone out
        connection.close(reason=CloseReason.SHUTDOWN)
    for task in tasks:
        if task is not None:
            task.cancel()
    ending = asyncio.ensure_future(_end(kafka, {task for task in tasks if task is not None}))
    _ENDING.add(ending)
    ending.add_done_callback(_ENDING.discard)


def _fail(producer: AIOKafkaProducer, error: Exception) -> None:
    held = producer._message_accumulator
    batches = [*held._pending_batches, *(batch for waiting in held._batches.values() for batch in waiting)]
    held.fail_all(error)
    answers = [batch._drain_waiter for batch in batches]
    transactions = producer._txn_manager
    ending = None if transactions is None else transactions.wait_for_transaction_end()
    if ending is not None and not ending.done():
        transactions.fatal_error(error)
        answers.append(ending)
    for answer in answers:
        answer.exception()  # perhaps nobody waits for it, and asyncio would complain


async def _end(kafka: Any, tasks: set[asyncio.Task[Any]]) -> None:
    for _ in range(_CANCELS_MAX_COUNT):
        await asyncio.sleep(0)
        left = [task for task in tasks if not task.done()]
        if not left:
            break
        for task in left:
            task.cancel()
    await kafka.close()


_ENDING: set[asyncio.Task[None]] = set()
