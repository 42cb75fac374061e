"""From the start of a service's process to its exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sluice_runtime.connection import CredentialsError
from sluice_runtime.logs import configure_logging
from sluice_runtime.redaction import Redactor
from sluice_runtime.settings import ServiceSettings, SettingsError, load_settings

STOP_MAX_S = 25
"""A service that was asked to stop is cancelled after it: Kubernetes kills after thirty."""

EXIT_STOPPED = 0
"""It was asked to stop, and did."""

EXIT_FAILED = 1
"""An error that nothing handles, or a stop that took too long: start it again, what is durable is whole."""

EXIT_SETTINGS = 2
"""The settings can't be used: starting it again won't help."""

GC_THRESHOLD_OBJECTS = 20_000
"""What a service makes by the hundred for each event, and what it keeps by the hundred thousand, is in no cycle:
looking for cycles as often as by default (700 objects) took a third of the api's processor time, and 8 % of a turn."""

S = TypeVar("S", bound=ServiceSettings)
Main = Callable[[S, asyncio.Event], Awaitable[None]]

_log = logging.getLogger(__name__)


def run_service(service: str, settings_type: type[S], main: Main[S]) -> int:
    """Runs a service: settings, logs, signals, then `main(settings, stop)` until it returns.

    SIGTERM and SIGINT set `stop`; `main` then finishes what it has begun and returns. A second signal, or
    `STOP_MAX_S` seconds, cancels it. An error that leaves `main` is logged in one line, and ends the process.

    Returns:
        The exit code: one of the `EXIT_…` above.
    """
    configure_logging(service)
    try:
        settings = load_settings(settings_type)
        configure_logging(service, settings.log_level, redactor=Redactor(settings.known_secrets()))
    except (SettingsError, CredentialsError, ValueError) as error:
        _log.critical("the settings can't be used: %s", error)
        return EXIT_SETTINGS
    gc.collect()
    gc.freeze()  # modules and classes: they stay
    gc.set_threshold(GC_THRESHOLD_OBJECTS)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_supervise(settings, main))
    except Exception as error:
        _log.critical(
            "stopped by an error; what is durable is whole, so start it again, and report it if it comes back",
            exc_info=error,
        )
        return EXIT_FAILED


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    # uvloop where the platform has it. Measured with aiokafka on one broker, 1 KB records: a hop takes 0.9 of the time,
    # 32 at once make 1.1 to 1.3 times as many, for 0.85 of the CPU.
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _supervise(settings: S, main: Main[S]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    work = asyncio.ensure_future(main(settings, stop))
    overdue: asyncio.TimerHandle | None = None

    def on_signal(number: int) -> None:
        nonlocal overdue
        if stop.is_set():
            _log.error("asked to stop again: what is under way is cut off")
            work.cancel()
            return
        _log.info("asked to stop by %s", signal.Signals(number).name)
        stop.set()
        overdue = loop.call_later(STOP_MAX_S, on_overdue)

    def on_overdue() -> None:
        _log.error("the stop took more than %s s: what is under way is cut off", STOP_MAX_S)
        work.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await work
    except asyncio.CancelledError:
        return EXIT_FAILED
    finally:
        if overdue is not None:
            overdue.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if not stop.is_set():
        raise RuntimeError("the service's main function returned, and nobody had asked it to")
    _log.info("stopped")
    return EXIT_STOPPED
