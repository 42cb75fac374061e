"""The peer: LangGraph with AsyncSqliteSaver, a chain of steps, as its documentation shows it. Prints one JSON line.

python -m benchmarks.langgraph_chain DIRECTORY STEPS AT_ONCE EACH
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    """What the steps hand on."""

    steps: int


async def step(state: State) -> State:
    """A step that does nothing: what is measured is what makes it durable."""
    return {"steps": state["steps"] + 1}


async def main(directory: Path, steps: int, at_once: int, each: int) -> None:
    """Runs the chain in `at_once` threads of the checkpointer at once, `each` times in each place."""
    async with AsyncSqliteSaver.from_conn_string(str(directory / f"{uuid.uuid4()}.sqlite")) as saver:
        builder = StateGraph(State)
        names = [f"step{number}" for number in range(steps)]
        for name in names:
            builder.add_node(name, step)
        for before, after in zip([START, *names], [*names, END], strict=True):
            builder.add_edge(before, after)
        graph = builder.compile(checkpointer=saver)
        runs_s: list[float] = []

        async def place() -> None:
            for _ in range(each):
                begun = time.perf_counter()
                made = await graph.ainvoke({"steps": 0}, {"configurable": {"thread_id": str(uuid.uuid4())}})
                runs_s.append(time.perf_counter() - begun)
                assert made["steps"] == steps

        await graph.ainvoke({"steps": 0}, {"configurable": {"thread_id": "warm-up"}})
        begun, cpu_begun_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(place() for _ in range(at_once)))
        seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun_s
        print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "runs_s": runs_s}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
