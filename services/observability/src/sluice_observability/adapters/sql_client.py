"""The api's door to the past: the SQL endpoint of the store, or a server's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from sluice_observability.domain.statements import escaped
from sluice_observability.ports import QueryRefused, QueryTooLarge, StoreUnavailable
from sluice_runtime.connection import ClickHouseAddress

TIMEOUT_S = 15.0
"""A page that takes longer is no page; the endpoint's own limit is above it."""

LIMITS = frozenset({158, 159, 160, 241, 307, 396})
"""ClickHouse's codes for a limit that a query broke: rows, time, expected time, memory, bytes, size of the result."""

RAISED_BY = "SLUICE_QUERY_TIME_MAX_S, SLUICE_QUERY_MEMORY_MAX_BYTES; of a server, the user's profile"


class SqlClient:
    """Runs queries over HTTP. Use it as an async context manager.

    Args:
        address: The store's endpoint, or a server; with the user and the database, where it asks for them.
        password: That user's.
        readonly: Have a server refuse whatever does not only read, also from a user that may write. The store's
            endpoint does so anyhow.
        transport: Instead of the network.
    """

    def __init__(
        self,
        address: ClickHouseAddress,
        password: str | None = None,
        *,
        readonly: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"X-ClickHouse-Database": address.database} if address.database else {}
        if address.user:
            headers |= {"X-ClickHouse-User": address.user, "X-ClickHouse-Key": password or ""}
        self._settings = {"default_format": "JSONEachRow", **({"readonly": "1"} if readonly else {})}
        # No proxy from the environment: the address is one of ours, and the headers hold a password.
        self._client = httpx.AsyncClient(
            base_url=address.url, headers=headers, timeout=TIMEOUT_S, transport=transport, trust_env=False
        )

    async def __aenter__(self) -> SqlClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def rows(
        self, query: str, parameters: Mapping[str, str] | None = None, *, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        """See `ports.Sql.rows`."""
        given = {f"param_{name}": escaped(value) for name, value in (parameters or {}).items()}
        try:
            answer = await self._client.post(
                "/", params={**self._settings, **given}, content=query, timeout=timeout_s or TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise StoreUnavailable(f"the SQL endpoint did not answer: {type(error).__name__}") from error
        code = int(answer.headers.get("X-ClickHouse-Exception-Code", "0"))
        if code in LIMITS:
            raise QueryTooLarge(
                code,
                f"the store ended a query at one of its limits; raise it there ({RAISED_BY}): {answer.text[:500]}",
            )
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise QueryRefused(code, answer.text[:500])  # a defect of ours: it would be refused again
        if answer.status_code != httpx.codes.OK:
            raise StoreUnavailable(f"the SQL endpoint answered {answer.status_code}: {answer.text[:500]}")
        return [json.loads(line) for line in answer.content.splitlines() if line]
