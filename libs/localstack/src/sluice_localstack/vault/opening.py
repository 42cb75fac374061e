"""Initialising a Vault once, and unsealing it, with keys that are kept in a file."""

from __future__ import annotations

import time
from collections.abc import Callable

from sluice_localstack.errors import NotReady, SettingInvalid
from sluice_localstack.vault.connection import VaultAddress, VaultClient, VaultLogin
from sluice_localstack.vault.keys import KeyFile, Keys

POLL_S = 0.02


def open_vault(address: VaultAddress, keys: KeyFile, still_waiting: Callable[[], None]) -> None:
    """Have a Vault of one node initialised and unsealed. Returns when it answers; without effect where it does.

    Guarantee: new keys are whole and on the disk before they are used.

    Args:
        address: Where it is.
        keys: Where its keys are, or will be.
        still_waiting: Called while nothing has changed; raises what ends the waiting.

    Raises:
        SettingInvalid: The keys are lost, or they are another Vault's.
    """
    client = VaultClient(VaultLogin(address))
    while (health := client.health()) != "active":  # one that has just been unsealed is a standby for a moment
        if health == "uninitialised":
            _initialise(client, keys)
        elif health == "sealed":
            client.unseal(keys.needed().unseal_key)
        still_waiting()
        time.sleep(POLL_S)


def waiting_at_most(seconds: float, address: VaultAddress) -> Callable[[], None]:
    """For `open_vault`: raises `NotReady` after so many seconds."""
    deadline = time.monotonic() + seconds

    def wait() -> None:
        if time.monotonic() > deadline:
            raise NotReady(f"Vault at {address.url} does not answer within {seconds:.0f} s; start it, or read its log")

    return wait


def _initialise(client: VaultClient, keys: KeyFile) -> None:
    if keys.read() is not None:
        raise SettingInvalid(
            f"{keys.path} has keys, but the Vault is empty; restore its storage from a backup, or move the keys away"
        )
    keys.begin()
    keys.write(Keys(*client.initialise()))
