"""The limits of error budgets (V5): records of topic `budgets`, of which the last of each scope counts."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from sluice_client.sql import Sql
from sluice_contracts import codec
from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent, OutgoingRecord
from sluice_contracts.messages.alert import BudgetSet
from sluice_contracts.topics import BUDGETS
from sluice_runtime.broker import Broker

SOURCE = "operator/cli"

LAST_OF_EACH = (
    "SELECT key AS scope, argMax(has_value, offset) AS given,"
    " argMax(JSONExtract(payload, 'errors_per_minute', 'Nullable(Int64)'), offset) AS errors_per_minute,"
    " argMax(JSONExtract(payload, 'api_calls_per_minute', 'Nullable(Int64)'), offset) AS api_calls_per_minute,"
    " argMax(JSONExtract(payload, 'progress_timeout_s', 'Nullable(Int64)'), offset) AS progress_timeout_s,"
    " toUnixTimestamp64Milli(max(append_time)) AS set_at_ms"
    " FROM (SELECT * FROM log WHERE topic = 'budgets' AND (type = 'budget.set' OR NOT has_value))"
    " GROUP BY key HAVING given ORDER BY key"
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a scope sets; None inherits."""

    scope: str
    errors_per_minute: int | None
    api_calls_per_minute: int | None
    progress_timeout_s: int | None
    set_at_ms: int


def list_budgets(sql: Sql) -> list[Budget]:
    """The scopes that set limits, as far as the log has them."""
    return [
        Budget(
            row["scope"],
            _number(row["errors_per_minute"]),
            _number(row["api_calls_per_minute"]),
            _number(row["progress_timeout_s"]),
            int(row["set_at_ms"]),
        )
        for row in sql.rows(LAST_OF_EACH)
    ]


async def set_budget(broker: Broker, budget: BudgetSet) -> None:
    """Writes a scope's limits, durably.

    Raises:
        BrokerUnavailable: It may not be there.
    """
    now_ms = time.time_ns() // 1_000_000
    tenant = budget.name if budget.scope == "tenant" and budget.name is not None else SYSTEM_TENANT
    subject = budget.name or budget.scope
    event = CloudEvent(str(uuid.uuid4()), SOURCE, tenant, subject, now_ms, budget)
    await broker.append(codec.encode(event, topic=BUDGETS.name, key=budget.key))


async def clear_budget(broker: Broker, budget: BudgetSet) -> None:
    """Takes a scope's limits away: it inherits all.

    Raises:
        BrokerUnavailable: They may still be there.
    """
    await broker.append(OutgoingRecord(BUDGETS.name, budget.key.encode(), None))


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
