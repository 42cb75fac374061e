"""Whose an error is: Kafka's and Faust's end one life of the app, and another begins; ours end the process.

What Kafka's absence raises is varied: errors of aiokafka's and the system's, but also assertions and lookups that fail
within Faust and aiokafka, whose objects are taken down meanwhile. So beside the type it counts whose code raised it.
"""

from __future__ import annotations

import logging
import traceback

from sluice_runtime.broker import BrokerUnavailable
from sluice_runtime.kafka.errors import is_away, is_refused

logger = logging.getLogger(__name__)

_THEIRS = frozenset({"faust", "mode", "aiokafka"})


def unavailable(error: Exception) -> BrokerUnavailable | None:
    """What an error means if it is Kafka's or Faust's; None if it is a defect of ours, or a right that is missing."""
    if isinstance(error, BrokerUnavailable):
        return error
    if is_refused(error):
        return None
    if not is_away(error):
        if not _is_theirs(error):
            return None
        logger.warning("an error of Faust's own", exc_info=error)
    return BrokerUnavailable(f"{type(error).__name__}: {error}")


def _is_theirs(error: Exception) -> bool:
    """Whether, of Faust's code and ours, Faust's is nearer to where the error was raised."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name.partition(".")[0] for name in [type(error).__module__, *frames]]
    known = [name for name in packages if name in _THEIRS or name.startswith("sluice_")]
    return bool(known) and known[-1] in _THEIRS
