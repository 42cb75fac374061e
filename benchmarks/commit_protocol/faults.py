"""Seeded kills and stops under load, and what the consumer found afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

from .client import Client, check, create_topics, delete_topics
from .instance import SESSION_TIMEOUT_MS, Topics
from .model import PARTITIONS, key_partition
from .processes import ProcessorProcess

RATE_PER_SECOND = 300
# "anywhere" is a signal from outside at a random moment; the others are struck by the instance itself.
POINTS = {
    "transactions": ("decided", "offsets_sent", "committed", "anywhere"),
    "journal": ("decided", "sent", "acked", "publishing", "published", "anywhere"),
}
PASSES_PER_SECOND = {"transactions": 25, "journal": 150}  # roughly, under this load: so that a point is met soon
RECOVERY_TIMEOUT_SECONDS = 60.0


class Load:
    """Sends inputs at a constant rate and sees when each partition answers again."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._since = float("inf")
        self._answered: dict[int, float] = {}
        client.on_output = self._on_output
        self._sending = asyncio.create_task(self._send_forever())

    async def _send_forever(self) -> None:
        start, sent = time.perf_counter(), 0
        while True:
            while sent < (time.perf_counter() - start) * RATE_PER_SECOND:
                await self._client.send()
                sent += 1
            await asyncio.sleep(0.002)

    def _on_output(self, identifier: str, latency: float) -> None:
        now = time.perf_counter()
        if now - latency > self._since:
            self._answered.setdefault(key_partition(int(identifier.split("-")[0])), now)

    def mark(self) -> None:
        """From here on count only the answers to inputs sent later."""
        self._since = time.perf_counter()
        self._answered = {}

    async def all_partitions_answer(self) -> float:
        """Return the seconds from the mark until every partition has answered an input sent after it."""
        deadline = self._since + RECOVERY_TIMEOUT_SECONDS
        while len(self._answered) < PARTITIONS:
            if time.perf_counter() > deadline:
                raise RuntimeError(f"only partitions {sorted(self._answered)} answer")
            await asyncio.sleep(0.01)
        return max(self._answered.values()) - self._since

    async def stop(self) -> None:
        self._sending.cancel()
        await asyncio.wait([self._sending])


class Trial:
    """Topics, client and load of one protocol's fault run."""

    def __init__(self, bootstrap: str, protocol: str, kind: str) -> None:
        self.bootstrap, self.protocol = bootstrap, protocol
        self.topics = Topics(f"{kind}.{os.getpid()}.{protocol}")
        self._processes: list[ProcessorProcess] = []

    async def __aenter__(self) -> Trial:
        await create_topics(self.bootstrap, self.topics)
        isolation_level = "read_committed" if self.protocol == "transactions" else "read_uncommitted"
        self.client = Client(self.bootstrap, self.topics, isolation_level)
        await self.client.start()
        self.load = Load(self.client)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.alive:
                await process.kill()
        await self.load.stop()
        await self.client.stop()
        await delete_topics(self.bootstrap, self.topics)

    def process(self, instance: str) -> ProcessorProcess:
        process = ProcessorProcess(self.bootstrap, self.protocol, self.topics.run, instance)
        self._processes.append(process)
        return process

    async def verdict(self) -> dict:
        await self.load.stop()
        unanswered = await self.client.drain(30)
        return {"unanswered": unanswered, **await check(self.bootstrap, self.topics, self.protocol, self.client.sent)}


def plan(protocol: str, seed: int, name: str) -> tuple[str, str, float]:
    """Return the point, the argument that arms it, and the wait if the signal comes from outside."""
    generator = random.Random(seed)
    point = generator.choice(POINTS[protocol])
    nth = generator.randint(1, 2 * PASSES_PER_SECOND[protocol])
    return point, "" if point == "anywhere" else f"{point}:{nth}:{name}", generator.uniform(0.2, 2.0)


async def strike(process: ProcessorProcess, outside: bool, wait_seconds: float, number: signal.Signals) -> bool:
    """Wait until the fault has struck; return whether the signal had to come from outside."""
    struck = (lambda: process.stopped) if number == signal.SIGSTOP else (lambda: not process.alive)
    deadline = time.monotonic() + (wait_seconds if outside else 10)
    while not struck() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    if struck():
        return False
    process.signal(number)
    while not struck():
        await asyncio.sleep(0.005)
    return True


async def run_kills(bootstrap: str, protocol: str, first_seed: int, count: int) -> dict:
    """Send SIGKILL to the only instance again and again; it is started again at once."""
    rows = []
    async with Trial(bootstrap, protocol, "kills") as trial:
        process = trial.process("instance-0")
        for seed in range(first_seed, first_seed + count):
            point, fault, wait_seconds = plan(protocol, seed, "KILL")
            before = len(process.events)
            await process.start(*(["--fault", fault] if fault else []))
            recovery = None
            if rows:
                # Recovered, or struck again before every partition had answered: both are fine.
                waiting = asyncio.create_task(trial.load.all_partitions_answer())
                dying = asyncio.create_task(process.wait(RECOVERY_TIMEOUT_SECONDS))
                await asyncio.wait([waiting, dying], return_when=asyncio.FIRST_COMPLETED)
                recovery = waiting.result() if waiting.done() else None
                for task in (waiting, dying):
                    task.cancel()
                rows[-1]["recovery_seconds"] = recovery and round(recovery, 2)
            outside = await strike(process, point == "anywhere", wait_seconds, signal.SIGKILL)
            await process.wait(10)
            trial.load.mark()
            rows.append(
                {
                    "seed": seed,
                    "point": "anywhere" if outside else fault,
                    "events": [event["event"] for event in process.events[before:]],
                }
            )
        await process.start()
        rows[-1]["recovery_seconds"] = round(await trial.load.all_partitions_answer(), 2)
        verdict = await trial.verdict()
    times = sorted(row["recovery_seconds"] for row in rows if row.get("recovery_seconds"))
    summary = {"kills": len(rows), "recovery_median_seconds": times[len(times) // 2], "recovery_max_seconds": times[-1]}
    print(protocol, summary, verdict, flush=True)
    return {"summary": summary, "verdict": verdict, "trials": rows}


async def run_stops(bootstrap: str, protocol: str, first_seed: int, count: int) -> dict:
    """Stop one of two instances past its session, let the other take over, then let the zombie wake."""
    rows = []
    async with Trial(bootstrap, protocol, "stops") as trial:
        processes = [trial.process("instance-0"), trial.process("instance-1")]
        for process in processes:
            await process.start()
            await process.event("ready", 1, 20)
        for seed in range(first_seed, first_seed + count):
            point, fault, wait_seconds = plan(protocol, seed, "STOP")
            victim = processes[seed % 2]
            await victim.kill()
            await victim.start(*(["--fault", fault] if fault else []))
            if point == "anywhere":
                trial.load.mark()
                await trial.load.all_partitions_answer()
            outside = await strike(victim, point == "anywhere", wait_seconds, signal.SIGSTOP)
            trial.load.mark()
            takeover = await trial.load.all_partitions_answer()
            rest_of_session = max(0.0, SESSION_TIMEOUT_MS / 1000 + 0.5 - takeover)
            await asyncio.sleep(rest_of_session + random.Random(seed).uniform(0, 2))
            before = len(victim.events)
            victim.signal(signal.SIGCONT)
            trial.load.mark()
            await asyncio.sleep(2)
            trial.load.mark()
            settled = await trial.load.all_partitions_answer()
            rows.append(
                {
                    "seed": seed,
                    "point": "anywhere" if outside else fault,
                    "takeover_seconds": round(takeover, 2),
                    "settled_seconds_after_wake": round(2 + settled, 2),
                    "zombie_alive": victim.alive,
                    "zombie_events": [
                        f"{event['event']} {event.get('error', '')}".strip() for event in victim.events[before:]
                    ],
                }
            )
            print(protocol, rows[-1], flush=True)
        verdict = await trial.verdict()
    times = sorted(row["takeover_seconds"] for row in rows)
    summary = {
        "stops": len(rows),
        "takeover_median_seconds": times[len(times) // 2],
        "takeover_max_seconds": times[-1],
        "zombies_refused_at_the_commit": sum(any(e.startswith("fenced") for e in row["zombie_events"]) for row in rows),
    }
    print(protocol, summary, verdict, flush=True)
    return {"summary": summary, "verdict": verdict, "trials": rows}
