"""Loopback ports that a data directory keeps over restarts."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Sequence
from pathlib import Path

from sluice_localstack.errors import StartFailed
from sluice_localstack.files import read_json, write_private

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 20_000, 31_999
"""Below the range from which systems take the ports of outgoing connections (32768 and up): there a client that tries
again while its server restarts can be given the server's own port, and hold it."""
TRIES = 200
_FILE = "ports.json"


def is_free(port: int) -> bool:
    """Whether a server could listen on that loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def accepts(port: int, timeout_s: float = 0.2) -> bool:
    """Whether something listens on that loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout_s).close()
    except OSError:
        return False
    return True


def keep_ports(directory: Path, names: Sequence[str]) -> dict[str, int]:
    """The ports of a data directory: those it had last time where they are still free, others where not.

    Only the holder of the directory's lock may call it, while nothing of its own listens on them.

    Raises:
        StartFailed: No free port was found.
    """
    stored = stored_ports(directory)
    ports = dict(stored)
    for name in names:
        if name not in stored or not is_free(stored[name]):
            ports[name] = _pick(set(ports.values()))
    if ports != stored:
        write_private(directory / _FILE, json.dumps(ports))
    return {name: ports[name] for name in names}


def stored_ports(directory: Path) -> dict[str, int]:
    """The ports that were kept for a data directory; a running stack listens on them."""
    return {str(name): int(port) for name, port in (read_json(directory / _FILE) or {}).items()}


def _pick(taken: set[int]) -> int:
    for _ in range(TRIES):
        port = random.randint(FIRST_PORT, LAST_PORT)
        if port not in taken and is_free(port):
            return port
    raise StartFailed(f"no free port on {LOOPBACK} in {FIRST_PORT}..{LAST_PORT} in {TRIES} tries; end what holds them")
