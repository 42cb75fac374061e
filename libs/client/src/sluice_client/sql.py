"""SQL over ClickHouse's HTTP interface: the store's read-only endpoint, or a server's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sluice_client.errors import InputInvalid, Refused, Unreachable
from sluice_client.installation import Installation
from sluice_runtime.connection import ClickHouseAddress

TIMEOUT_S = 60.0
"""The endpoint ends a query after 30 s."""

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"})


class OtherFormat(Exception):
    """The query names its own FORMAT: show `body` as it is, or leave FORMAT out of the query."""

    def __init__(self, body: bytes) -> None:
        super().__init__("the query names a FORMAT of its own; its answer is no table")
        self.body = body


@dataclass(frozen=True, slots=True)
class Table:
    """A query's answer."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Sql:
    """Asks the event log. Use it as a context manager, or close it.

    Args:
        url: The endpoint: `http(s)://user@host:port/database`, of which user, port and database may be left out.
        user: Where it asks for one; default: the URL's.
        password_file: Holds that user's password.
        database: Default: the URL's, else the endpoint's.
        readonly: Have a server refuse whatever does not only read, also from a user that may write.
        transport: Instead of the network.

    Raises:
        InputInvalid: The URL is none, or the password's file can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password_file: Path | None = None,
        database: str | None = None,
        readonly: bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            address = ClickHouseAddress.parse(url, "SLUICE_SQL_URL")
        except ValueError as error:
            raise InputInvalid(str(error)) from None
        self._url = address.url
        self._settings = {"readonly": "1"} if readonly else {}
        user, database = user or address.user, database or address.database
        headers = {"X-ClickHouse-Database": database} if database else {}
        if user:
            headers |= {"X-ClickHouse-User": user, "X-ClickHouse-Key": _password(password_file)}
        # No proxy from the environment: the address is the installation's own, and a header is secret.
        self._client = httpx.Client(
            base_url=self._url, headers=headers, timeout=TIMEOUT_S, transport=transport, trust_env=False
        )

    @classmethod
    def of(cls, installation: Installation) -> Sql:
        """The event log of an installation.

        Raises:
            NotRunning: Its address is not known.
            InputInvalid: The password's file can't be read.
        """
        password_file = installation.sql_password_file
        return cls(
            installation.needed_sql_url(),
            user=installation.sql_user,
            password_file=None if password_file is None else Path(password_file),
            database=installation.sql_database,
            readonly=installation.sql_readonly,
        )

    def __enter__(self) -> Sql:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def raw(self, query: str, *, format: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """The answer in one of ClickHouse's formats, unless the query names its own.

        Args:
            query: One statement that reads; `{name:Type}` in it stands for a parameter.
            format: Such as JSON, CSVWithNames, TabSeparated.
            parameters: Values by name.

        Raises:
            Refused: The query is wrong, forbidden, or exceeds a limit; the text is ClickHouse's.
            Unreachable: The endpoint does not answer.
        """
        given = {f"param_{name}": value.translate(_ESCAPES) for name, value in (parameters or {}).items()}
        try:
            answer = self._client.post(
                "/", params={"default_format": format, **self._settings, **given}, content=query.encode()
            )
        except httpx.TransportError as error:
            raise Unreachable(
                f"SQL at {self._url} does not answer ({type(error).__name__}); see what runs: sluice doctor"
            ) from error
        if answer.is_success:
            return answer.content
        code = answer.headers.get("X-ClickHouse-Exception-Code", "")
        raise Refused(answer.text.strip()[:2_000], answer.status_code, {"type": code, "detail": answer.text[:2_000]})

    def table(self, query: str, parameters: Mapping[str, str] | None = None) -> Table:
        """The answer with its columns in their order. Raises as `raw`.

        Raises:
            OtherFormat: The query names a FORMAT of its own.
        """
        body = self.raw(query, format="JSONCompact", parameters=parameters)
        try:
            answer = json.loads(body)
            rows = answer["data"]
            if not all(isinstance(row, list) for row in rows):
                raise OtherFormat(body)
            return Table([column["name"] for column in answer["meta"]], rows)
        except (ValueError, KeyError, TypeError):
            raise OtherFormat(body) from None

    def rows(self, query: str, parameters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """The answer as objects. Raises as `table`."""
        found = self.table(query, parameters)
        return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def _password(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text().strip()
    except OSError as error:
        raise InputInvalid(f"password file {file}: {error.strerror}; correct SLUICE_SQL_PASSWORD_FILE") from None
