"""Which statements an analyst may send, judged by the tree that ClickHouse's own parser made of them.

`readonly = 1` alone does not keep the embedded engine's owner safe. Tried on version 26.9, it lets pass
`SELECT file(…)` (reads any file), `INTO OUTFILE` (writes one), `DESCRIBE TABLE url(…)` (opens a connection),
`KILL QUERY` (ends the sink's insert) and several statements at once. Users and grants can't be made there. So a
statement is parsed first, and only what is known to be harmless is run.
"""

from __future__ import annotations

import re

READING_STATEMENTS = frozenset({
    "SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "Explain", "DescribeQuery",
    "ExistsDatabaseQuery", "ExistsTableQuery", "ExistsViewQuery", "ExistsDictionaryQuery",
    "ShowTables", "ShowColumns", "ShowIndexes", "ShowFunctions", "ShowSettingQuery", "ShowEngineQuery",
    "ShowCreateTableQuery", "ShowCreateViewQuery", "ShowCreateDatabaseQuery",
})  # fmt: skip
"""First words of the trees of statements that only read."""

TABLE_FUNCTIONS = frozenset({
    "numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "generaterandom", "values",
    "view", "null", "primes", "format",
})  # fmt: skip
"""Table functions that reach nothing outside the query."""

FORBIDDEN_FUNCTION = re.compile(
    r"file|ai[a-z]+|logtrace|catboostevaluate|evalmlmethod|dictget.*|joinget.*|.*introspection.*|addressto.*|demangle"
    r"|getserversetting|getserverport|sleepeachrow|executable|python|url|remote|s3|input",
    re.IGNORECASE,
)
"""Functions that read files, call out, show the server's settings, or hold a thread."""

_WRITES_FILE = re.compile(r"^\s*INTO OUTFILE\b", re.MULTILINE | re.IGNORECASE)
_FUNCTION = re.compile(r"^( *)Function (\S+)")


def refusal(formatted: str, tree: str | None) -> str | None:
    """Why a statement may not run; None if it may.

    Args:
        formatted: The statement as ClickHouse's formatter writes it: one statement, and no literal spans lines.
        tree: What EXPLAIN AST says of it; None where it was not asked yet, because asking is not harmless for all.
    """
    if _WRITES_FILE.search(formatted):
        return "INTO OUTFILE writes a file on the server; read the answer and write it yourself"
    if tree is None:
        return None
    lines = tree.splitlines()
    kind = lines[0].split()[0] if lines and lines[0].strip() else "an empty statement"
    if kind not in READING_STATEMENTS:
        return f"{kind}: only statements that read are allowed"
    table_depth = None
    for line in lines:
        depth = len(line) - len(line.lstrip(" "))
        if line.strip() == "Set" and not (kind == "Explain" and depth == 1):  # EXPLAIN has options of its own
            return "SETTINGS are the endpoint's own"
        if line.lstrip(" ").startswith("TableExpression"):
            table_depth = depth
            continue
        if table_depth is not None and depth <= table_depth:
            table_depth = None  # behind the table; a function there is a condition of a JOIN
        function = _FUNCTION.match(line)
        if function is None:
            continue
        name = function[2]
        is_table = table_depth is not None and depth == table_depth + 1
        if is_table and name.lower() not in TABLE_FUNCTIONS:
            return f"table function {name} reaches outside the log; allowed are {', '.join(sorted(TABLE_FUNCTIONS))}"
        if FORBIDDEN_FUNCTION.fullmatch(name):
            return f"function {name} is not allowed"
    return None


_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"})


def escaped(value: str) -> str:
    """A parameter's value as ClickHouse reads it: a field of its TabSeparated format."""
    return value.translate(_ESCAPES)
