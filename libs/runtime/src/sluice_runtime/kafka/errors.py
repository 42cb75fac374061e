"""aiokafka's errors, named by what the caller does next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka import errors
from confluent_kafka import KafkaException

from sluice_runtime.broker import BrokerUnavailable, Fenced

_FENCED = (errors.ProducerFenced, errors.InvalidProducerEpoch, errors.InvalidTxnState, errors.InvalidProducerIdMapping)
_AWAY = (
    errors.KafkaError,
    errors.ConsumerStoppedError,  # a shared reader that was given up while somebody waited for it; no KafkaError
    KafkaException,
    OSError,
    TimeoutError,
)
_REFUSED = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.MessageSizeTooLargeError,
    errors.UnsupportedCodecError,  # the topic was not made by `sluice topics apply`, which has the broker undo codecs
)


def is_away(error: BaseException) -> bool:
    """Whether an error says that Kafka is away, for now."""
    return isinstance(error, _AWAY) and not isinstance(error, _REFUSED)


def is_refused(error: BaseException) -> bool:
    """Whether Kafka is there and refuses what is asked for: asking again won't help."""
    return isinstance(error, _REFUSED)


class Translated:
    """Errors named by what the caller does next (`with`, on every call: hence no generator)."""

    __slots__ = ("_on_unavailable",)

    def __init__(self, on_unavailable: Callable[[], None] = lambda: None) -> None:
        self._on_unavailable = on_unavailable

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or is_refused(error):
            return
        if isinstance(error, asyncio.CancelledError):
            # A client that is given up cancels the futures of all who wait for it. They were not asked to end.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self._on_unavailable()
                raise BrokerUnavailable("the client was given up while its answer was waited for") from error
            return
        if isinstance(error, _FENCED):
            raise Fenced(f"{type(error).__name__}: {error}") from error
        if is_away(error):
            self._on_unavailable()
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error


TRANSLATED = Translated()
