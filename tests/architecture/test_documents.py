"""What the documents copy from the code is current, and stays readable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2
from pydantic import BaseModel

from sluice_agent_runner.adapters.directory import LISTED_MAX_COUNT
from sluice_agent_runner.adapters.scenarios import read_scenario
from sluice_agent_runner.domain.tools import CATALOGUE as TOOLS
from sluice_agent_runner.settings import RunnerSettings
from sluice_client.plan_files import read_plan
from sluice_contracts import ids
from sluice_contracts.messages.alert import BudgetSet
from sluice_contracts.messages.plan import Budget, Limits, Plan, TaskSpec
from sluice_contracts.topics import PIPELINE_COMMANDS
from sluice_localstack import vault_table
from sluice_observability.settings import ApiSettings, MonitorSettings, StoreSettings
from sluice_runtime.memory import partition_for
from sluice_runtime.metrics import CATALOGUE as METRICS
from sluice_runtime.metrics import Counter, Gauge
from sluice_runtime.role import Role, RoleLimits
from sluice_runtime.roles import read_role
from sluice_runtime.settings import ServiceSettings, settings_table
from sluice_spawner.settings import SpawnerSettings
from sluice_vault_broker.audit.settings import AuditSettings
from sluice_vault_broker.settings import BrokerSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*/README.md")])
LINE_MAX_CHARACTERS = 130
COMMON = settings_table(ServiceSettings)


def own_table(settings: type[ServiceSettings]) -> str:
    """Without what every service can be told."""
    head, rule, *rows = settings_table(settings).splitlines(keepends=True)
    return "".join([head, rule, *(row for row in rows if row not in COMMON)])


TABLES: dict[str, list[str]] = {
    "agent-runner": [settings_table(RunnerSettings)],
    "observability": [COMMON, own_table(StoreSettings), own_table(ApiSettings), own_table(MonitorSettings)],
    "spawner": [settings_table(SpawnerSettings)],
    "vault-broker": [settings_table(BrokerSettings), own_table(AuditSettings)],
}


def test_every_service_has_its_settings_here() -> None:
    assert set(TABLES) == {path.parent.name for path in (ROOT / "services").glob("*/pyproject.toml")}


@pytest.mark.parametrize("service", sorted(TABLES))
def test_a_readme_s_tables_of_settings_are_current(service: str) -> None:
    readme = (ROOT / "services" / service / "README.md").read_text() + "\n"
    for table in TABLES[service]:
        assert f"\n{table}\n" in readme, f"services/{service}/README.md lacks this table:\n{table}"


def metrics_table() -> str:
    """The catalogue of metrics as `docs/operations.md` has it."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        kind = "counter" if isinstance(metric, Counter) else "gauge" if isinstance(metric, Gauge) else "histogram"
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        rows.append(f"| `{metric.name}` | {kind} | {labels} | {metric.help} |")
    return "\n".join(rows) + "\n"


def test_the_catalogue_of_metrics_is_current() -> None:
    assert metrics_table() in (ROOT / "docs" / "operations.md").read_text(), f"it lacks:\n{metrics_table()}"


def rights_table() -> str:
    """All that anybody may do in Vault, as `deploy/vault/README.md` has it; of a queue `q`."""
    vault = vault_table(["q"])
    whose: dict[str, list[str]] = {name: [] for name in vault.policies}
    for roles, key in ((vault.approle_roles, "token_policies"), (vault.token_roles, "allowed_policies")):
        for role, row in roles.items():
            for policy in row[key]:
                whose[policy].append(f"`{role}`")
    rows = ["| policy | of the role | path | may |", "|---|---|---|---|"]
    for policy, text in vault.policies.items():
        for path, block in re.findall(r'^path "([^"]+)" {\n(.*?)^}', text, re.M | re.S):
            shown = re.sub("{{.*}}", "<pipeline>", path)
            (found,) = re.findall(r"^  capabilities +=(.*)$", block, re.M)
            may = ", ".join(re.findall(r'"(\w+)"', found))
            parameters = ", ".join(f"`{one}`" for one in re.findall(r'^    "(\w+)"', block, re.M))
            wrapped = "; wrapped only" if "min_wrapping_ttl" in block else ""
            may += f"; only {parameters}" * bool(parameters) + wrapped
            rows.append(f"| `{policy}` | {', '.join(whose[policy])} | `{shown}` | {may} |")
    return "\n".join(rows) + "\n"


@pytest.mark.covers("V2", "D2")
def test_the_table_of_rights_in_vault_is_current() -> None:
    assert rights_table() in (ROOT / "deploy" / "vault" / "README.md").read_text(), f"it lacks:\n{rights_table()}"


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_every_tool_is_described_with_its_arguments(name: str) -> None:
    text = (ROOT / "docs" / "scenarios.md").read_text()
    section = re.search(rf"^### `{name}`\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    assert section is not None
    missing = [field for field in TOOLS[name].schema()["properties"] if f"`{field}`" not in section[1]]
    assert not missing


def test_the_page_on_plans_shows_the_plan_that_is_tried() -> None:
    plan = ROOT / "examples" / "plans" / "cache" / "plan.yaml"
    read = read_plan(plan)
    assert f"```yaml\n{plan.read_text()}```\n" in (ROOT / "docs" / "plans.md").read_text()
    assert read.scenario is not None
    scenario = read_scenario(read.scenario)
    assert all(scenario.script(task["role"], task["id"]) for task in read.plan["tasks"])


COMMANDS = {
    "pipeline.spawn": "smallest",
    "pipeline.answer": "to-a-question",
    "pipeline.cancel": "with-reason",
    "pipeline.tick": "empty",
}
"""The commands of the contract, each with the example that the page shows."""


def record(type_: str, name: str, key: str | None = None) -> str:
    """An example as `docs/producing.md` shows it: the record's key, headers and value."""
    document = json.loads((ROOT / "schemas" / "examples" / type_ / "v1" / f"{name}.json").read_text())
    data, content_type = document.pop("data"), document.pop("datacontenttype")
    attributes = [(f"ce_{one}" if one != "traceparent" else one, text) for one, text in document.items()]
    head = [f"key: {key or document['subject']}", *(f"{header}: {text}" for header, text in attributes)]
    value = json.dumps(data, indent=2, ensure_ascii=False)
    return "```\n" + "\n".join([*head, f"content-type: {content_type}", "", value]) + "\n```\n"


@pytest.mark.covers("C1")
def test_every_command_is_shown_as_a_record() -> None:
    assert set(COMMANDS) == {message.type for message in PIPELINE_COMMANDS.messages}
    text = (ROOT / "docs" / "producing.md").read_text()
    for type_, name in COMMANDS.items():
        assert record(type_, name) in text, f"it lacks:\n{record(type_, name)}"


@pytest.mark.covers("C1", "V5")
def test_a_violation_a_budget_and_a_revocation_are_shown_as_records() -> None:
    text = (ROOT / "docs" / "producing.md").read_text()
    assert record("violation.reported", "foreign") in text
    assert record("token.revoke", "manual") in text
    budget = json.loads((ROOT / "schemas" / "examples" / "budget.set" / "v1" / "pipeline.json").read_text())["data"]
    assert record("budget.set", "pipeline", BudgetSet(**budget).key) in text


@pytest.mark.covers("C1")
def test_the_test_vectors_are_right() -> None:
    text = (ROOT / "docs" / "producing.md").read_text()
    vectors = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| `([0-9a-f-]{36})` \| (\d+) \| (\d) \|$", text, re.M)
    assert len(vectors) >= 4
    for tenant, key, uuid, hashed, partition in vectors:
        assert ids.pipeline_id(tenant, key) == uuid
        assert int(murmur2(uuid.encode())) & 0x7FFFFFFF == int(hashed)
        assert partition_for(uuid.encode(), 8) == int(partition)


def fields(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("plans.md", fields(Plan) | fields(TaskSpec) | fields(Limits) | fields(Budget)),
        ("roles.md", fields(Role) | {f"limits.{name}" for name in fields(RoleLimits)} - {"limits"}),
    ],
)
def test_every_field_is_described(page: str, names: set[str]) -> None:
    text = (ROOT / "docs" / page).read_text()
    missing = [name for name in names - {"limits"} if not re.search(rf"[`{{ ]{re.escape(name)}[`,}}]", text)]
    assert not missing


def test_the_role_on_its_page_is_one(tmp_path: Path) -> None:
    example = re.search(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "roles.md").read_text(), re.M | re.S)
    assert example is not None
    (tmp_path / "reviewer.yaml").write_text(example[1])
    assert read_role(tmp_path / "reviewer.yaml").queue == "review"


def test_what_a_listing_walks_is_told() -> None:
    assert f"{LISTED_MAX_COUNT:,}" in (ROOT / "docs" / "scenarios.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_s_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_s_lines_are_not_too_long(page: Path) -> None:
    """Rows of tables can't be broken."""
    long = [
        f"{number}: {line[:60]}…"
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > LINE_MAX_CHARACTERS and not line.startswith("|")
    ]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_s_lists_are_lists(page: Path) -> None:
    """Whatever joins lines makes one paragraph of a list, or one heading of all."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^#+ .* - .*$|^.*[.:;] - \*\*.*$", text, re.MULTILINE) == []
