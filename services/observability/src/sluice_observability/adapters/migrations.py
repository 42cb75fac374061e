"""Migrations: numbered SQL files, applied once, in order, and never changed afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources

from sluice_observability.ports import Database

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_STATEMENT_END = re.compile(r";[ \t]*(?:\n|\Z)")


class MigrationChanged(Exception):
    """A migration that was applied is not what it was: restore the file, and put the change into a new one."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The statements; each ends with a semicolon at the end of a line."""
        return [one.strip() for one in _STATEMENT_END.split(self.text) if one.strip()]


def shipped() -> list[Migration]:
    """The migrations of this release, in order."""
    folder = resources.files("sluice_observability") / "migrations"
    found = [(match, file) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))]
    return sorted(
        (Migration(int(match[1]), file.name, file.read_text()) for match, file in found), key=lambda one: one.number
    )


def migrate(database: Database, migrations: Sequence[Migration]) -> list[str]:
    """Applies what is missing.

    A migration that was cut off by a crash is applied again from its first statement, so its statements must be
    repeatable: CREATE is sent with IF NOT EXISTS, and what is made anew says OR REPLACE.

    Returns:
        The names of those applied now.

    Raises:
        MigrationChanged: An applied migration has another text now, or the database has one that this release lacks.
        StoreUnavailable: The database did not do it.
    """
    database.command(
        "CREATE TABLE IF NOT EXISTS schema_migrations (number UInt32 COMMENT 'Number of the file.',"
        " name String COMMENT 'Its name.', checksum String COMMENT 'SHA-256 of its text.',"
        " applied_at DateTime DEFAULT now() COMMENT 'When it was applied.') ENGINE = MergeTree ORDER BY number"
        " COMMENT 'Migrations that were applied.'"
    )
    query = "SELECT number, name, checksum FROM schema_migrations ORDER BY number"
    applied = {number: (name, checksum) for number, name, checksum in database.rows(query)}
    for number, (name, _) in applied.items():
        if all(migration.number != number for migration in migrations):
            raise MigrationChanged(f"the database has migration {name}, this release does not: run a newer release")
    done = []
    for migration in migrations:
        if migration.number in applied:
            name, checksum = applied[migration.number]
            if checksum != migration.checksum:
                raise MigrationChanged(
                    f"migration {name} was applied with checksum {checksum[:12]}, its file now has"
                    f" {migration.checksum[:12]}: restore the file and put the change into a new migration"
                )
            continue
        for statement in migration.statements:
            database.command(re.sub(r"^CREATE (TABLE|VIEW) ", r"CREATE \1 IF NOT EXISTS ", statement, flags=re.M))
        database.command(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES"
            f" ({migration.number}, '{migration.name}', '{migration.checksum}')"
        )
        done.append(migration.name)
    return done
