"""Scenario files: what a scripted model says, to whom, in which turn. Described in docs/scenarios.md."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import re2
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sluice_agent_runner.adapters.templates import PLACEHOLDER, arguments_text, has_template, placeholders
from sluice_contracts.messages.base import Identifier, Usage
from sluice_runtime.yaml_files import InvalidFile, load, shown, validate

Fault = Literal["timeout", "401", "429", "500", "malformed", "cut_stream"]

DELAY_MAX_MS = 600_000
"""Longer than any model takes."""

REPEAT_MAX_COUNT = 10_000
"""The largest number of turns that a pipeline may allow."""

SCENARIOS_MAX_COUNT = 256
"""Scenario files that are kept in memory, compiled; others are read again."""

SHIPPED_SCENARIOS = Path(__file__).parents[1] / "scenarios"
"""Scenarios that come with the runner; a file of the same name in a directory of one's own wins."""

NO_MODEL = "no-model"
"""The shipped scenario of agents that name no model where there is none: it looks around, says so, and finishes."""

BUILT_IN = frozenset({"turn", "task", "role"})
"""Names that a template may always use."""

_GROUP = re.compile(r"\(\?P<([A-Za-z_][A-Za-z0-9_]*)>")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FaultEntry(_Strict):
    """One call that fails."""

    fault: Fault
    retry_after_s: Annotated[float, Field(ge=0, le=3_600)] | None = None

    @field_validator("fault", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Check(_Strict):
    """Where to look, and for what.

    Attributes:
        source: `tool_results`, or `prompt`: what the agent was told of its task and of the tasks before it.
        tool: Only results of this tool.
        turn: The turn whose results are looked at; None is the one just before, `all` is every one.
        pattern: A regular expression (RE2); ^ and $ match at lines.
    """

    source: Annotated[Literal["tool_results", "prompt"], Field(alias="from")] = "tool_results"
    tool: Identifier | None = None
    turn: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    pattern: Annotated[str, Field(min_length=1, max_length=2_000)]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            compile_pattern(PLACEHOLDER.sub("x", value))
        except re2.error as error:
            raise ValueError(f"is no regular expression of RE2: {error}") from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> Check:
        if self.source == "prompt" and (self.tool is not None or self.turn is not None):
            raise ValueError("tool and turn belong to from: tool_results")
        return self


class Capture(Check):
    """Named groups of the pattern become values for `{{name}}`."""

    match: Literal["first", "last"] = "first"

    @field_validator("pattern")
    @classmethod
    def _has_groups(cls, value: str) -> str:
        if not _GROUP.search(value):
            raise ValueError("captures nothing: give a named group, such as (?P<line>[0-9]+)")
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it captures."""
        return tuple(_GROUP.findall(self.pattern))


class Assertion(Check):
    """The pattern must match; with `absent` it must not."""

    absent: bool = False


class ScriptedCall(_Strict):
    """One tool call. Arguments that are a text are sent as they are, so that broken JSON can be played too."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: dict[str, Any] | str = Field(default_factory=dict)


class Turn(_Strict):
    """One turn, or several that are alike.

    Attributes:
        faults: How the first calls for this turn fail; the call after them succeeds.
        faults_through_attempt: The faults are played in the agent's attempts up to this one; None: in all.
        repeat: How many turns in a row this is.
    """

    text: Annotated[str, Field(max_length=1024 * 1024)] = ""
    tool_calls: Annotated[list[ScriptedCall], Field(max_length=64)] = Field(default_factory=list)
    usage: Usage = Usage()
    delay_ms: Annotated[int, Field(ge=0, le=DELAY_MAX_MS)] = 0
    faults: Annotated[list[FaultEntry], Field(max_length=100)] = Field(default_factory=list)
    faults_through_attempt: Annotated[int, Field(ge=1)] | None = None
    capture: Annotated[list[Capture], Field(max_length=32)] = Field(default_factory=list)
    assert_: Annotated[list[Assertion], Field(max_length=32, alias="assert")] = Field(default_factory=list)
    repeat: Annotated[int, Field(ge=1, le=REPEAT_MAX_COUNT)] = 1

    @field_validator("usage", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        # The contract ignores what it does not know; a person's slip of the pen must be told.
        unknown = set(value) - set(Usage.model_fields) if isinstance(value, dict) else set()
        if unknown:
            raise ValueError(f"unknown key {sorted(unknown)[0]!r}; known are {sorted(Usage.model_fields)}")
        return value

    @field_validator("faults", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [entry if isinstance(entry, dict) else {"fault": entry} for entry in value]


class Script(_Strict):
    """The turns of all agents of a role, or a task, or of those that no other script is for."""

    role: Identifier | None = None
    task: Identifier | None = None
    turns: Annotated[list[Turn], Field(min_length=1, max_length=1_000)]


class ScenarioFile(_Strict):
    """A whole file."""

    description: str = ""
    agents: Annotated[list[Script], Field(min_length=1, max_length=1_000)]


@dataclass(frozen=True, slots=True)
class CompiledTurn:
    """A turn, prepared so that playing it costs little.

    Attributes:
        fixed_calls: The calls' names and JSON arguments where no template is in them, else None.
        fixed_text: Whether the text holds no template.
    """

    turn: Turn
    fixed_text: bool
    fixed_calls: tuple[tuple[str, str], ...] | None


@dataclass(frozen=True, slots=True)
class CompiledScript:
    """A script with its turns counted out: turn n is `at(n)`."""

    turns: tuple[CompiledTurn, ...]
    ends: tuple[int, ...]
    captures: tuple[tuple[int, Turn], ...]

    @property
    def count(self) -> int:
        """How many turns it has."""
        return self.ends[-1]

    def at(self, number: int) -> CompiledTurn | None:
        """Turn `number`, from 1, or None beyond the end."""
        for turn, end in zip(self.turns, self.ends, strict=True):
            if number <= end:
                return turn
        return None


class Scenario:
    """A checked scenario."""

    def __init__(self, name: str, scripts: dict[tuple[str | None, str | None], CompiledScript]) -> None:
        self.name = name
        self._scripts = scripts

    def script(self, role: str, task: str) -> CompiledScript | None:
        """The most specific script for an agent: of role and task, of the task, of the role, of anybody."""
        scripts = self._scripts
        return (
            scripts.get((role, task)) or scripts.get((None, task)) or scripts.get((role, None))
            or scripts.get((None, None))
        )  # fmt: skip


def read_scenario(path: Path) -> Scenario:
    """Reads and checks a scenario file.

    Raises:
        InvalidFile: The message names file, place, value and what was expected.
    """
    return compile_scenario(validate(ScenarioFile, load(path), str(path)), path.stem, str(path))


def compile_scenario(file: ScenarioFile, name: str, source: str) -> Scenario:
    """Prepares a scenario; `source` is for the errors.

    Raises:
        InvalidFile: Two scripts are for the same agents, or a template uses what no turn before it captures.
    """
    scripts: dict[tuple[str | None, str | None], CompiledScript] = {}
    for number, script in enumerate(file.agents):
        key = (script.role, script.task)
        if key in scripts:
            raise InvalidFile(
                f"{source}: agents[{number}]: a second script for role {script.role or 'any'} and task "
                f"{script.task or 'any'}; put its turns into the first"
            )
        known = set(BUILT_IN)
        ends: list[int] = []
        turns: list[CompiledTurn] = []
        captures: list[tuple[int, Turn]] = []
        end = 0
        for index, turn in enumerate(script.turns):
            where = f"{source}: agents[{number}].turns[{index}]"
            for check in turn.capture:
                _check_names(where, check.pattern, placeholders(check.pattern), known)
                known.update(check.names)
            for assertion in turn.assert_:
                _check_names(where, assertion.pattern, placeholders(assertion.pattern), known)
            for value in (turn.text, *(call.arguments for call in turn.tool_calls)):
                _check_names(where, value, placeholders(value), known)
            if turn.capture:
                captures.append((end + 1, turn))
            end += turn.repeat
            ends.append(end)
            fixed = not any(has_template(call.arguments) for call in turn.tool_calls)
            calls = tuple((call.name, arguments_text(call.arguments)) for call in turn.tool_calls) if fixed else None
            turns.append(CompiledTurn(turn, not has_template(turn.text), calls))
        scripts[key] = CompiledScript(tuple(turns), tuple(ends), tuple(captures))
    return Scenario(name, scripts)


def _check_names(where: str, value: Any, used: Iterator[str], known: set[str]) -> None:
    for name in used:
        if name not in known:
            raise InvalidFile(
                f"{where}: {{{{{name}}}}} in {shown(value)} is captured by no turn up to this one; "
                f"known are {', '.join(sorted(known))}"
            )


def compile_pattern(pattern: str) -> Any:
    """A scenario's pattern: ^ and $ match at lines."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile("(?m)" + pattern, options)


class ScenarioLibrary:
    """Finds scenarios by name; a file that was changed on disk is read again.

    Args:
        directory: Where `<name>.yaml` are, beside the shipped ones; None where there are no others.
        default_file: The scenario of those who name none; None takes the shipped `no-model`.
    """

    def __init__(self, directory: Path | None, default_file: Path | None) -> None:
        self._directory = directory
        self._default_file = default_file
        self._paths: dict[str | None, str] = {}
        self._kept: dict[str, tuple[tuple[int, int, int], Scenario]] = {}

    @property
    def has_default_file(self) -> bool:
        """Whether somebody has said what is played for those who name no scenario."""
        return self._default_file is not None

    def get(self, name: str | None) -> Scenario:
        """The scenario of a name, or the default one.

        Raises:
            InvalidFile: There is no such scenario, or its file is wrong.
        """
        path = self._paths.get(name)
        if path is None:
            path = str(self._path(name))
            if len(self._paths) < SCENARIOS_MAX_COUNT:
                self._paths[name] = path
        try:
            status = os.stat(path)  # at every turn of every agent: a path object would cost more than the call
        except OSError as error:
            raise InvalidFile(f"{path}: {error.strerror}") from None
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == version:
            return kept[1]
        scenario = read_scenario(Path(path))
        if len(self._kept) >= SCENARIOS_MAX_COUNT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[path] = (version, scenario)
        return scenario

    def _path(self, name: str | None) -> Path:
        if name is None:
            return self._default_file or SHIPPED_SCENARIOS / f"{NO_MODEL}.yaml"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}", name):
            raise InvalidFile(f"scenario {shown(name)}: a name has letters, digits, dots, dashes and underscores only")
        own = None if self._directory is None else self._directory / f"{name}.yaml"
        if own is not None and own.exists():
            return own
        shipped = SHIPPED_SCENARIOS / f"{name}.yaml"
        if shipped.exists():
            return shipped
        if own is None:
            raise InvalidFile(
                f"scenario {shown(name)}: set SLUICE_SCENARIOS_DIRECTORY to the folder of NAME.yaml files"
            )
        return own
