"""The unseal key and the root token of a stack's own Vault: one private file, written before either is used."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sluice_localstack.errors import SettingInvalid
from sluice_localstack.files import FILE_MODE, read_json

_RESTORE = "restore the file from a backup, or start with a new data directory"


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens the Vault. Left out of `repr`."""

    unseal_key: str = field(repr=False)
    root_token: str = field(repr=False)


class KeyFile:
    """`keys.json` in the Vault's data directory, mode 0600, and the mark of an initialisation that is under way.

    A killed initialisation leaves a Vault whose key nobody has. It holds nothing yet, for the key is written before it
    is used: so what stands beside the mark without a key is thrown away and made anew.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "keys.json"
        self._mark = directory / "initialising"
        self._directory = directory

    def read(self) -> Keys | None:
        """The keys; None if there are none yet.

        Raises:
            SettingInvalid: The file is not what was written.
        """
        row = read_json(self.path)
        if row is None:
            return None
        try:
            return Keys(str(row["unseal_key"]), str(row["root_token"]))
        except KeyError as error:
            raise SettingInvalid(f"{self.path} lacks {error}; {_RESTORE}") from None

    def needed(self) -> Keys:
        """The keys of a Vault that has been initialised.

        Raises:
            SettingInvalid: They are lost.
        """
        keys = self.read()
        if keys is None:
            raise SettingInvalid(
                f"{self.path} is missing, but the Vault beside it can't be unsealed without it; {_RESTORE}"
            )
        return keys

    def begin(self) -> None:
        """Mark that an initialisation begins."""
        os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT, FILE_MODE))
        self._flush_directory()

    def write(self, keys: Keys) -> None:
        """Keep new keys: whole and on the disk when this returns. Never replaces others.

        Raises:
            FileExistsError: There are keys.
        """
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump({"unseal_key": keys.unseal_key, "root_token": keys.root_token}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(new, self.path)  # unlike a rename it fails where the name is taken
        new.unlink()
        self._flush_directory()
        self._mark.unlink(missing_ok=True)

    def drop_unfinished(self, storage: Path) -> None:
        """Throw away the storage of an initialisation that was killed before its keys were kept."""
        if self._mark.exists():
            if self.read() is None:
                shutil.rmtree(storage, ignore_errors=True)
            self._mark.unlink()

    def _flush_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
