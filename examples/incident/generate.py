"""Writes the incident's files anew: `python generate.py [--seed N] [--deploy-at HH:MM] [--out DIRECTORY]`.

The shipped files are what it writes without arguments. Another seed or another time makes a variation of the same
story: line numbers, times and messages differ, and whoever investigates has to find them again. `--out` writes it into
another folder, with the plan and the scenario: `sluice demo --incident DIRECTORY` runs it.

The story. A shop's checkout goes gateway → orders → payments → postgres. At the given time a deployment of the
payments service lowers its connection pool from 40 to 4. Nothing fails at first: traffic is low. When a settlement job
starts, the four connections are all taken, and a payment waits in vain: the first error, one line in the log of
payments. Orders then fails, the gateway answers 502 hundreds of times, inventory releases what was reserved. The
loudest log is not the first, and there are warnings long before that have nothing to do with it.
"""

from __future__ import annotations

import argparse
import random
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
DAY = datetime(2025, 11, 18, tzinfo=timezone.utc)
BEGIN, END = DAY + timedelta(hours=13, minutes=30), DAY + timedelta(hours=14, minutes=30)
SERVICES = ("gateway", "orders", "payments", "inventory", "postgres")
POOL_BEFORE, POOL_AFTER = 40, 4
REQUESTS_PER_S = 0.2

INSTANCES = {
    "gateway": ("gateway-a", "gateway-b"),
    "orders": ("orders-5f6d-1", "orders-5f6d-2"),
    "payments": ("payments-84bc-1", "payments-84bc-2"),
    "inventory": ("inventory-6c1e-1",),
    "postgres": ("pg-main",),
}


class Incident:
    """One hour of five services.

    Args:
        seed: Of everything that is random.
        deploy_at: When the pool is made small.
    """

    def __init__(self, seed: int, deploy_at: datetime) -> None:
        self.rng = random.Random(seed)
        self.deploy_at = deploy_at
        self.job_at = deploy_at + timedelta(seconds=150 + 60 * self.rng.random())
        self.failing_from = self.job_at + timedelta(seconds=35 + 40 * self.rng.random())
        self.failed_yet = False
        self.lines: dict[str, list[tuple[datetime, str]]] = {service: [] for service in SERVICES}
        self.order = 48_200 + self.some(400)

    def log(self, service: str, at: datetime, level: str, text: str, request: str | None = None) -> None:
        """Adds a line."""
        if BEGIN <= at < END:
            instances = INSTANCES[service]
            instance = instances[int(self.rng.random() * len(instances))]
            stamp = at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
            traced = f" req={request}" if request else ""
            self.lines[service].append((at, f"{stamp} {level} [{instance}]{traced} {text}"))

    def write(self, out: Path) -> None:
        """Lets the hour pass and writes all files."""
        self.background()
        self.red_herrings()
        self.deployment()
        at = BEGIN
        while at < END:
            at += timedelta(seconds=self.rng.expovariate(REQUESTS_PER_S))
            if self.rng.random() < 0.5:
                self.browse(at)
            else:
                self.checkout(at)
        (out / "logs").mkdir(parents=True, exist_ok=True)
        for service, lines in self.lines.items():
            text = "".join(f"{line}\n" for _, line in sorted(lines))
            (out / "logs" / f"{service}.log").write_text(text)
        for name, text in {
            "config/payments.yaml": PAYMENTS_CONFIG.replace("POOL", str(POOL_AFTER)),
            "config/orders.yaml": ORDERS_CONFIG,
            "deploy/changes.log": self.changes(),
            "runbook.md": RUNBOOK,
        }.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)

    # What is always there

    def background(self) -> None:
        """Metrics, checkpoints, jobs."""
        at = BEGIN + timedelta(seconds=2)
        while at < END:
            for service in SERVICES[:4]:
                moment = at + timedelta(seconds=8 * self.rng.random())
                threads, heap = 8 + self.some(24), 310 + self.some(120)
                self.log(service, moment, "INFO", f"metrics: threads={threads} heap_mb={heap} uptime=ok")
            at += timedelta(seconds=30)
        at = BEGIN + timedelta(seconds=20)
        while at < END:
            buffers, took = 120 + self.some(900), 0.4 + 3 * self.rng.random()
            text = f"checkpoint complete: wrote {buffers} buffers; write={took:.3f} s, sync=0.{self.some(90):02d} s"
            self.log("postgres", at, "LOG", text)
            for _ in range(4):
                moment = at + timedelta(seconds=50 * self.rng.random())
                backend = 21_000 + self.some(900)
                table = ("orders", "stock", "authorizations", "ledger")[self.some(4)]
                self.log(
                    "postgres", moment, "LOG", f'automatic analyze of table "shop.public.{table}" backend={backend}'
                )
            at += timedelta(seconds=55 + 10 * self.rng.random())

    def red_herrings(self) -> None:
        """Warnings of the kind that every hour has."""
        minute = BEGIN + timedelta(minutes=7)
        for number in range(6):
            moment = minute + timedelta(seconds=23 * number + 9 * self.rng.random())
            took = 1_400 + self.some(1_900)
            self.log("inventory", moment, "WARN", f"slow query: stock by warehouse took {took} ms (threshold 1000 ms)")
        for number in range(9):
            moment = BEGIN + timedelta(minutes=21, seconds=7 * number + 5 * self.rng.random())
            self.log(
                "gateway", moment, "WARN", f"TLS handshake failed: client 203.0.113.{10 + number}: unknown protocol"
            )
        for number in range(3):
            moment = BEGIN + timedelta(minutes=14, seconds=40 * number)
            self.log("postgres", moment, "WARNING", "checkpoints are occurring too frequently (24 seconds apart)")
        for number in range(5):
            moment = BEGIN + timedelta(minutes=27, seconds=12 * number + 4 * self.rng.random())
            took = 900 + self.some(700)
            self.log("payments", moment, "WARN", f"card provider answered slowly: {took} ms (threshold 800 ms)")
        self.log("orders", BEGIN + timedelta(minutes=11, seconds=31), "WARN", "cache miss rate 0.31 (threshold 0.25)")
        self.log(
            "inventory", BEGIN + timedelta(minutes=11, seconds=4), "INFO", "started release r774 (log format only)"
        )

    def deployment(self) -> None:
        """The change, and what payments says about it while it still works."""
        at = self.deploy_at + timedelta(seconds=3)
        for number in range(2):
            moment = at + timedelta(seconds=4 * number)
            self.log("payments", moment, "INFO", "configuration reloaded: release r2031")
            text = f"connection pool resized: max_size {POOL_BEFORE} -> {POOL_AFTER}"
            self.log("payments", moment + timedelta(milliseconds=12), "INFO", text)
        for number in range(POOL_BEFORE - POOL_AFTER):
            moment = at + timedelta(seconds=5 + 0.35 * number)
            text = f"disconnection: session time 0:{30 + number % 20}:{number:02d} user=payments"
            self.log("postgres", moment, "LOG", text)
        self.log("payments", self.job_at, "INFO", "settlement job started: 1,840 authorizations to settle")
        at = self.job_at + timedelta(seconds=9)
        while at < self.failing_from - timedelta(seconds=2):
            waiting = 1 + self.some(3)
            text = f"connection pool is full: active={POOL_AFTER} max={POOL_AFTER} waiting={waiting}"
            self.log("payments", at, "WARN", text)
            at += timedelta(seconds=6 + 8 * self.rng.random())

    # Requests

    def some(self, most: int) -> int:
        """A number below `most`."""
        return int(most * self.rng.random())

    def request(self) -> str:
        """A request's id."""
        return f"{int(self.rng.random() * 0xFFFFFFFF):08x}"

    def browse(self, at: datetime) -> None:
        """Somebody looks at goods; payments has no part in it."""
        request, took = self.request(), 8 + self.some(60)
        sku = 1_000 + self.some(700)
        self.log("gateway", at, "INFO", f"GET /catalog/{sku} 200 {took}ms upstream=inventory", request)
        moment = at + timedelta(milliseconds=3)
        self.log("inventory", moment, "INFO", f"stock sku={sku} available={self.some(90)}", request)

    def checkout(self, at: datetime) -> None:
        """Somebody buys."""
        request = self.request()
        self.order += 1
        order, amount = self.order, 9 + 180 * self.rng.random()
        sku, count = 1_000 + self.some(700), 1 + self.some(3)
        ms = timedelta(milliseconds=1)
        self.log("orders", at + 4 * ms, "INFO", f"order {order} created: sku={sku} count={count}", request)
        self.log("inventory", at + 11 * ms, "INFO", f"reserved sku={sku} count={count} order={order}", request)
        if at >= self.failing_from and (not self.failed_yet or self.rng.random() < 0.82):
            self.fail(at, request, order, sku, count)
            return
        took = 90 + self.some(240)
        paid = at + (20 + took) * ms
        self.log("payments", at + 18 * ms, "INFO", f"authorize order={order} amount={amount:.2f} EUR", request)
        self.log("payments", paid, "INFO", f"authorized order={order} in {took} ms", request)
        self.log("orders", paid + 5 * ms, "INFO", f"order {order} confirmed", request)
        self.log("gateway", paid + 9 * ms, "INFO", f"POST /checkout 201 {took + 34}ms upstream=orders", request)

    def fail(self, at: datetime, request: str, order: int, sku: int, count: int) -> None:
        """A payment gets no connection: each service above says so later, and louder."""
        self.failed_yet = True
        ms = timedelta(milliseconds=1)
        waiting = 6 + self.some(30)
        moment = at + 3_020 * ms
        text = (
            f"no database connection within 3000 ms: active={POOL_AFTER} max={POOL_AFTER} waiting={waiting}; "
            f"authorization of order {order} given up"
        )
        self.log("payments", moment, "ERROR", text, request)
        for attempt in range(1, 4):
            moment += (700 + 900 * self.rng.random()) * ms
            text = f"payments answered 503 for order {order} (try {attempt} of 3)"
            self.log("orders", moment, "ERROR", text, request)
        self.log("orders", moment + 6 * ms, "ERROR", f"order {order} failed: PaymentUnavailable", request)
        moment += 9 * ms
        took = int((moment - at) / ms)
        self.log("gateway", moment, "ERROR", f"POST /checkout 502 {took}ms upstream=orders: bad gateway", request)
        for again in range(2 + self.some(5)):
            moment += (1_500 + 2_500 * self.rng.random()) * ms
            took = 2_000 + self.some(4_000)
            text = f"POST /checkout 502 {took}ms upstream=orders: bad gateway (client retry {again + 1})"
            self.log("gateway", moment, "ERROR", text, request)
        if self.rng.random() < 0.25:
            self.log("gateway", moment + 40 * ms, "ERROR", "upstream orders is flapping: 5 of 5 probes failed")
        text = f"reservation expired before payment: order={order} sku={sku} count={count} released"
        self.log("inventory", at + timedelta(seconds=95 + 20 * self.rng.random()), "ERROR", text, request)
        if self.rng.random() < 0.2:
            text = f"connection reset by client backend={21_000 + self.some(900)}"
            self.log("postgres", at + 3_500 * ms, "LOG", text)

    # What was changed, and when

    def changes(self) -> str:
        """Every deployment and configuration change of three weeks."""
        header = "# time service release file change by ref note\n"
        lines = []
        for number in range(34):
            at = DAY - timedelta(days=21) + timedelta(hours=14.3 * number + 2 * self.rng.random())
            service = SERVICES[self.some(4)]
            release, what = 300 + 7 * number, _USUAL[int(len(_USUAL) * self.rng.random())]
            lines.append((at, f"{service} r{release} {what}"))
        pool = "config/payments.yaml database.pool.max_size"
        lines += [
            (
                DAY - timedelta(days=6, hours=3),
                f"payments r2019 {pool}: 30 -> {POOL_BEFORE} by=m.okafor"
                ' ref=PAY-1102 "headroom for the settlement job"',
            ),
            (
                BEGIN + timedelta(minutes=11),
                'inventory r774 image log_format: plain -> json by=ci ref=INV-391 "log format only"',
            ),
            (
                BEGIN + timedelta(minutes=22),
                'gateway r1190 certs tls.certificate: 2024 -> 2025 by=j.lind ref=OPS-88 "yearly rotation"',
            ),
            (
                self.deploy_at,
                f"payments r2031 {pool}: {POOL_BEFORE} -> {POOL_AFTER} by=ci"
                ' ref=PAY-1183 "trim idle database connections"',
            ),
            (
                self.deploy_at + timedelta(minutes=11),
                'orders r652 image retries.log_level: info -> error by=ci ref=ORD-207 "make retries visible"',
            ),
        ]
        return header + "".join(f"{at.strftime('%Y-%m-%dT%H:%M:%SZ')} {text}\n" for at, text in sorted(lines))


_USUAL = (
    'image dependencies: bumped by=ci ref=OPS-71 "weekly update"',
    'image metrics.interval_s: 15 -> 30 by=ci ref=OPS-64 "less noise"',
    'image http.keep_alive_s: 60 -> 75 by=a.meyer ref=OPS-69 "match the load balancer"',
    'image feature.gift_cards: off -> on by=s.rossi ref=SHOP-540 "launch"',
    'image cache.ttl_s: 300 -> 240 by=ci ref=SHOP-512 "fresher prices"',
)

PAYMENTS_CONFIG = """\
# Payments service. Changes are deployed by the pipeline and recorded in deploy/changes.log.
service:
  name: payments
  port: 8443
  replicas: 2

database:
  host: pg-main
  name: shop
  user: payments
  pool:
    min_size: 2
    max_size: POOL
    acquire_timeout_ms: 3000
    idle_timeout_s: 300
  statement_timeout_ms: 2500

provider:
  name: cardnet
  timeout_ms: 5000
  slow_threshold_ms: 800

settlement:
  schedule: "*/30 * * * *"
  parallel: 8
  batch: 50
"""

ORDERS_CONFIG = """\
# Orders service.
service:
  name: orders
  port: 8442
  replicas: 2

payments:
  url: https://payments:8443
  timeout_ms: 4000
  retries: 3

reservation:
  ttl_s: 90
"""

RUNBOOK = """\
# Runbook: checkout fails

Customers see 502 at `POST /checkout`, or the alert *checkout success rate below 95 %* fires.

## What talks to what

Checkout path: gateway → orders → payments

Every service writes `<time> <level> [<instance>] req=<request> <text>`; times are UTC, and the clocks are
kept within a few milliseconds. The request's id is the same in all logs.

| service | log | configuration |
|---|---|---|
| gateway | `logs/gateway.log` | by operations |
| orders | `logs/orders.log` | `config/orders.yaml` |
| payments | `logs/payments.log` | `config/payments.yaml` |
| inventory | `logs/inventory.log` | in its image |
| postgres | `logs/postgres.log` | by operations |

## How to look

1. Find the **first** error in time, not the loudest. The gateway repeats what it hears, and clients retry: it always
   has the most lines. Begin at the end of the checkout path and go up.
2. Before you believe that an error is the first, look for any error before it, in every log.
3. Ask what changed before it: `deploy/changes.log` has every deployment and every change of configuration, newest last.
   A change *after* the first error did not cause it.
4. Compare the change with the configuration that is live, and with what the service itself said about it.
5. Write down file and line of every piece of evidence.

## Known and harmless

- `slow query: stock by warehouse` in inventory: a report that runs in the early afternoon.
- `TLS handshake failed … unknown protocol` at the gateway: port scanners.
- `checkpoints are occurring too frequently` in postgres: while the catalogue is imported.
- `card provider answered slowly` in payments: the provider; it is retried on its side.

## Rolling back

`deployctl rollback <service> <release before>`; a configuration change is a release of its own. Then watch the success
rate for ten minutes. Tell the team that owns the service, with the evidence.

## Numbers that help

- Payments needs one connection for each authorization under way, and `settlement.parallel` more while the settlement
  job runs (every 30 minutes). With `acquire_timeout_ms` of 3000, a payment that gets no connection fails three seconds
  after it began.
- Orders gives up after three tries; inventory releases a reservation after 90 seconds.
"""


def main() -> None:
    """Reads the arguments and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="of everything that is random")
    parser.add_argument(
        "--deploy-at", default="14:07", metavar="HH:MM", help="when the pool is made small (13:32–14:20)"
    )
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIRECTORY", help="where; default: beside this file")
    arguments = parser.parse_args()
    try:
        moment = datetime.strptime(arguments.deploy_at, "%H:%M")
        deploy_at = DAY + timedelta(hours=moment.hour, minutes=moment.minute, seconds=12)
        if not BEGIN + timedelta(minutes=2) <= deploy_at <= BEGIN + timedelta(minutes=51):
            raise ValueError("outside the hour")
    except ValueError as error:
        parser.error(f"--deploy-at {arguments.deploy_at}: {error}; give a time from 13:32 to 14:20")
    Incident(arguments.seed, deploy_at).write(arguments.out)
    if arguments.out.resolve() != HERE:
        for name in ("plan.yaml", "scenario.yaml"):
            shutil.copyfile(HERE / name, arguments.out / name)


if __name__ == "__main__":
    main()
