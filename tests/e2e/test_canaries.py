"""Canaries over the whole (V4): every secret, searched for in every byte that the installation keeps or tells."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sluice_client.installation import save
from sluice_client.wiring import installation_of
from sluice_contracts import ids
from sluice_contracts.messages.agent import AgentGrantOpened, AgentTurnFinished
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.pipeline import (
    PipelineAnswer,
    PipelineCompleted,
    PipelineFailed,
    PipelineRefused,
    QuestionAsked,
    TaskRetried,
)
from sluice_contracts.messages.plan import Plan, TaskSpec
from sluice_contracts.messages.report import HandoffReported
from sluice_contracts.messages.signal import ErrorReported, ViolationReported
from sluice_contracts.messages.token import TokenRevoke, TokenRevoked
from sluice_localstack.vault.server import VaultServer
from sluice_runtime.vault import names
from tests.e2e.canaries import Place, everywhere, sealed_tokens
from tests.e2e.test_breach import FAILS, tell
from tests.installation import PREFIX, QUEUE, TENANT, Installation
from tests.integration.agent_runner.model_server import Connection, ModelServer, model_server
from tests.integration.client.sluice import Sluice
from tests.searching import Search

SAID = f"agent.events.{QUEUE}"
LIKE_A_TOKEN = re.compile(rb"hv[sbr]\.[A-Za-z0-9_-]{24,}")
"""So the services' own logins are looked for, which nobody can open, and what SecretIDs are handed over in."""

WRITTEN_ON = {"told to revoke": "token.commands", "told as an error": "signals", "told as a violation": "signals"}
"""Keys that people and other systems write where they should not, and the topic on which they stand as written."""

REDACTED = "[redacted:api-key]"

FIRST = "canaries"
"""The first pipeline's dedupe key, so that its id is known before it runs."""


async def echoing(connection: Connection) -> None:
    """A model that tells the key with which it was asked: in an error, or in all that a model may say."""
    said, body = connection.request.headers["authorization"], connection.request.body
    if (status := {"refuses": 401, "is-ill": 500}.get(body["model"])) is not None:
        await connection.answer(status, {"error": {"message": f"not with {said}", "metadata": {"raw": said}}})
        return
    turn = sum(1 for message in body["messages"] if message["role"] == "assistant")
    calls = [
        [("write_artifact", {"name": "a.md", "kind": "report", "content": f"The key: {said}"}), (said, {}),
         ("read_file", {"path": f"../{said}"})],
        [("ask_human", {"question": f"May I use {said}?", "options": [said]})],
        [("finish", {"summary": said, "result": f"with {said}"})],
    ][min(turn, 2)]  # fmt: skip
    await connection.head()
    for half in (said[: len(said) // 2], said[len(said) // 2 :]):  # no piece of the stream has it whole
        await connection.delta(content=half)
    for number, (name, arguments) in enumerate(calls):
        function = {"name": name, "arguments": json.dumps(arguments)}
        await connection.delta(tool_calls=[{"index": number, "id": f"c{number}", "function": function}])
    await connection.delta("tool_calls")
    await connection.done(prompt_tokens=10, completion_tokens=5)


@contextmanager
def endpoint() -> Iterator[ModelServer]:
    """The model's endpoint, in a thread of its own."""
    loop, started, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    servers: list[ModelServer] = []

    async def serve() -> None:
        async with model_server(echoing) as server:
            servers.append(server)
            started.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield servers[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(30)
        loop.close()


@pytest.fixture(scope="module")
def visible() -> str:
    """A word that is no secret, and is written everywhere: the search that does not find it proves nothing."""
    return f"visible{secrets.token_hex(16)}"


@pytest.fixture(scope="module")
def models() -> Iterator[ModelServer]:
    with endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, visible: str, models: ModelServer) -> Iterator[Installation]:
    directory: Path = tmp_path_factory.mktemp("canaries")
    settings = {
        "agent-runner": {
            "SLUICE_MODEL_PROVIDER": "openai", "SLUICE_MODEL_BASE_URL": models.base_url, "SLUICE_LOG_LEVEL": "DEBUG",
            "SLUICE_MODEL_BACKOFF_MIN_S": "0.01", "SLUICE_MODEL_BACKOFF_MAX_S": "0.05",
            "SLUICE_MODEL_RETRIES_MAX_COUNT": "1", "SLUICE_MODEL_BREAKER_FAILURES_COUNT": "10000",
            "SLUICE_VAULT_LOOK_UP_INTERVAL_S": "1", "SLUICE_INSTANCE_ID": visible,
        },
        "vault-broker": {"SLUICE_LOG_LEVEL": "DEBUG", "SLUICE_RENEWAL_INTERVAL_S": "1"},
    }  # fmt: skip
    with Installation(directory, settings) as running:
        save(installation_of(running.settings, running.stack), directory)  # for the command
        yield running


def plant(there: Installation) -> dict[str, str]:
    """Secrets in Vault: a model's key by the command, a service's, an agent's; and those that are there anyway."""
    vault = there.stack.vault
    assert isinstance(vault, VaultServer)
    planted = {name: f"{name}+{secrets.token_urlsafe(30)}/=" for name in ("model-key", "service", "agent")}
    ran = Sluice(there.directory)("vault", "put-key", "openai", "--json", input=planted["model-key"])
    assert ran.code == 0, ran
    for path, name in (("services/billing", "service"), (f"agents/{ids.pipeline_id(TENANT, FIRST)}/notes", "agent")):
        vault.admin().write(f"{names.KV_MOUNT}/data/{path}", {"data": {"value": planted[name]}})
    keys = vault.keys.needed()
    planted |= {"unseal key": keys.unseal_key, "root token": keys.root_token}
    for role in (names.BROKER, names.RUNNER):
        files = there.stack.vault_credentials.files(role)
        planted[f"SecretID of {role}"] = files.secret_id_file.read_text().strip()
    for file in (there.directory / "credentials").glob("*.json"):
        planted[f"password of {file.stem}"] = json.loads(file.read_text())["password"]
    return planted


def as_written(place: Place, name: str) -> bool:
    """Whether a place is the topic on which somebody wrote a key: it stands there, and nowhere else."""
    topic = WRITTEN_ON.get(name, "")
    is_segment = place.kind == "segment" and Path(place.name).parent.name.startswith(f"{PREFIX}{topic}-")
    return bool(topic) and ((place.kind, place.name) == ("topic", topic) or is_segment)


def run_all(there: Installation, visible: str, keys: Mapping[str, str]) -> list[str]:
    """Pipelines that succeed and ask, fail, retry and break their budget, are refused, are revoked.

    Args:
        there: Where they run.
        visible: What is no secret.
        keys: What people and other systems write into commands and signals, by the names of `WRITTEN_ON`.
    """

    def task(**more: object) -> TaskSpec:
        return TaskSpec(id="t", objective=f"work on {visible}", role="researcher", **more)  # type: ignore[arg-type]

    def submit(model: str, dedupe_key: str | None = None, **more: object) -> str:
        plan = Plan(objective=f"about {visible}", tasks=(task(**more),), model=model)
        return there.submit(plan, dedupe_key=dedupe_key)

    asks = submit("tells", dedupe_key=FIRST)
    question = there.await_event(asks, QuestionAsked)
    there.send(asks, PipelineAnswer(question_id=question.data.question_id, answer="no"))
    there.await_event(asks, PipelineCompleted)
    refused = submit("refuses")
    assert there.await_event(refused, PipelineFailed).data.problem.code == "model_unauthorized"  # type: ignore[union-attr]
    ill = submit("is-ill", retries=8)
    there.await_event(ill, TaskRetried)
    breaks = submit(there.scenario("fails", FAILS))
    for pipeline in (ill, breaks):
        assert there.await_event(pipeline, PipelineFailed).data.reason == "error_budget_exceeded"
        assert there.events(pipeline, AlertRaised, "alerts")
        assert there.events(pipeline, HandoffReported, "reports")
    long = there.scenario("long", FAILS.replace("missing.txt", "handoff.md").replace("delay_ms: 20", "delay_ms: 500"))
    calm = FAILS.replace("name: read_file, arguments: {path: missing.txt}", "name: list_files")
    revoked, violates = submit(long), submit(there.scenario("calm", calm.replace("delay_ms: 20", "delay_ms: 700")))
    there.await_event(revoked, AgentTurnFinished, topic=SAID)
    tell(there, "token.commands", revoked, TokenRevoke(detail=f"about {visible}: {keys['told to revoke']}"))
    there.await_event(revoked, PipelineFailed)
    assert REDACTED in there.await_event(revoked, TokenRevoked, topic="token.events").data.detail
    there.await_event(violates, AgentTurnFinished, topic=SAID)
    tell(there, "signals", violates, ErrorReported(code="seen", detail=f"a key: {keys['told as an error']}"))
    violation = ViolationReported(policy="egress", severity="CRITICAL", detail=f"sent {keys['told as a violation']}")
    tell(there, "signals", violates, violation)
    assert there.await_event(violates, PipelineFailed).data.reason == "policy_violation"
    assert REDACTED in there.await_event(violates, AlertRaised, topic="alerts").data.detail
    unknown = there.submit(
        Plan(objective=visible, tasks=(task().model_copy(update={"role": "nobody"}),), model="tells")
    )
    there.await_event(unknown, PipelineRefused)
    free = submit("scripted:no-model", constraints=("no-secrets",))
    there.spawned.discard(unknown)
    there.await_ends()
    assert not there.events(free, AgentGrantOpened, SAID)
    return [asks, refused, ill, breaks, revoked, violates, unknown, free]


@pytest.mark.covers("V4", "V7", "O1", "O5", "W3")
@pytest.mark.timeout(600)
def test_no_secret_stands_anywhere(there: Installation, models: ModelServer, visible: str) -> None:
    planted = plant(there)
    keys = {name: f"sk-or-v1-{secrets.token_hex(32)}" for name in WRITTEN_ON}
    pipelines = run_all(there, visible, keys)
    asked_with = {request.headers["authorization"] for request in models.requests}
    assert asked_with == {f"Bearer {planted['model-key']}"}, "the models were told the key, and told it"
    end = f"SELECT count() AS n FROM log WHERE type = 'pipeline.completed' AND pipeline_id = '{pipelines[-1]}'"
    there.until(lambda: there.sql(end)[0]["n"], what="all of it is in the log")
    tokens = sealed_tokens(there)
    opened = {one.data.agent_id for pipeline in pipelines for one in there.events(pipeline, AgentGrantOpened, SAID)}
    assert len(opened) >= 5
    assert all(f"token of agent {agent}, attempt 1" in tokens for agent in opened)
    kept = [name for name in tokens if name.startswith("kept")]
    assert len(kept) > len(opened), "the agents', and the pipelines' own"
    planted |= tokens | keys
    assert all(len(one) >= 16 for one in planted.values())

    search, word = Search(planted), Search({"visible": visible})
    found: dict[str, set[str]] = defaultdict(set)
    seen: dict[str, int] = defaultdict(int)
    audited, written = False, set[str]()
    for place in everywhere(there, pipelines):
        for name in search(place.body):
            if as_written(place, name):
                written.add(name)
            else:
                found[f"{place.kind} {place.name}"].add(name)
        if LIKE_A_TOKEN.search(place.body):
            found[f"{place.kind} {place.name}"].add("what looks like a token of Vault")
        seen[place.kind] += bool(word(place.body))
        audited |= place.name == "vault/audit.log" and b"hmac-sha256:" in place.body
    assert found == {}
    assert written == set(WRITTEN_ON)
    assert audited
    kinds = {"topic", "segment", "file", "row", "http", "cli", "process"}
    assert {kind for kind, count in seen.items() if count} == kinds, "what is written there is found there"


@pytest.mark.covers("V4")
def test_the_search_finds_what_is_planted_on_purpose(there: Installation) -> None:
    """Vault's own secrets, where they do stand: in the files whose purpose that is."""
    planted = plant(there)
    body = (there.directory / "vault" / "keys.json").read_bytes()
    search = Search(planted)
    assert search(body) == {"unseal key", "root token"}
    leaked = there.directory / "logs" / "leaked.log"
    leaked.write_text(f"x-vault-token: {planted['root token']}")
    try:
        hits = {place.name for place in everywhere(there, []) if search(place.body)}
    finally:
        leaked.unlink()
    assert hits == {"logs/leaked.log"}
