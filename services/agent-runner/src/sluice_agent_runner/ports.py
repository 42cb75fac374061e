"""What the runner needs from outside. Doubles for tests implement these; adapters do it for real.

```
ModelError
├── ModelUnavailable     ask again later: the same request may succeed
└── ModelRefused         do not ask again: the request, the key or the scenario must change first
VaultFault               as `sluice_runtime.vault.faults` has it
├── VaultAway            ask again later
├── VaultRefused         do not ask again: the grant, the path or the policy must change first
└── TokenUnknown         the attempt's token is no more: end the attempt
UnusableInput            the task's inputs can't be laid into a workspace: fail the attempt for good
```
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sluice_agent_runner.domain.conversation import ModelReply, ModelRequest, ToolCall, ToolResult, WrittenArtifact
from sluice_agent_runner.domain.secret import Secret
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentStop, AgentThrottle
from sluice_contracts.messages.base import Message
from sluice_runtime.artifacts import ArtifactStore
from sluice_runtime.clock import Clock
from sluice_runtime.vault.faults import TokenUnknown, VaultAway, VaultFault, VaultRefused

__all__ = [
    "ArtifactStore",
    "Attempts",
    "Caller",
    "EventPublisher",
    "ModelError",
    "ModelProvider",
    "ModelRefused",
    "ModelUnavailable",
    "NoKey",
    "Time",
    "TokenUnknown",
    "Tools",
    "UnusableInput",
    "Vault",
    "VaultAway",
    "VaultFault",
    "VaultRefused",
    "Workspace",
    "Workspaces",
]  # fmt: skip


class ModelError(Exception):
    """A model call failed.

    Attributes:
        code: The problem's code, such as rate_limited.
        detail: What happened, and what to do; holds no key.
    """

    retryable: bool

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


class ModelUnavailable(ModelError):
    """Ask again later: the same request may succeed.

    Attributes:
        retry_after_s: What the provider asked to wait; None if it did not.
    """

    retryable = True

    def __init__(self, code: str, detail: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(code, detail)


class ModelRefused(ModelError):
    """Do not ask again: the request, the key or the scenario must change first."""

    retryable = False


class UnusableInput(Exception):
    """The task's inputs can't be laid into a workspace, and never will.

    Attributes:
        code: The problem's code.
    """

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(detail)


class Time(Clock, Protocol):
    """The clock, a stopwatch, and waiting."""

    def monotonic_ms(self) -> int:
        """Milliseconds since some moment. Never jumps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class Attempts(Protocol):
    """Whoever holds this runner's attempts."""

    @property
    def room(self) -> int:
        """How many more attempts it takes."""
        ...

    async def on_task(self, event: CloudEvent[AgentRun], queue: str) -> None:
        """Takes an attempt, unless it was stopped already, or a newer one of the agent is held."""
        ...

    async def on_stop(self, stop: AgentStop) -> None:
        """Stops this attempt and every older one; nothing more is published of them."""
        ...

    async def on_answer(self, message: AgentAnswer) -> None:
        """Hands an answer to its agent, if it is held."""
        ...

    async def on_throttle(self, throttle: AgentThrottle) -> None:
        """Slows an agent's calls down, if it is held."""
        ...


class Vault(Protocol):
    """HashiCorp Vault or OpenBao, once: nothing is tried again. Bounded in time and in calls at once."""

    async def open_grant(self, queue: str, context: str, sealed: str) -> Secret:
        """Opens a token that was sealed for a queue's runners, with this runner's own login.

        Args:
            queue: The queue that the grant came from.
            context: `<pipeline_id>/<agent_id>/<attempt>`, as it was sealed with.
            sealed: Vault's ciphertext.

        Raises:
            VaultAway: It may work later.
            VaultRefused: It was not sealed for this queue and context, or this runner may not open it.
        """
        ...

    async def read_key(self, token: Secret, provider: str) -> Secret | None:
        """A model provider's key, read with an agent's token; None where there is none.

        Raises:
            VaultAway: It may work later.
            VaultRefused: The token lives, and may not read it; or what is there is no key.
            TokenUnknown: The token does not live.
        """
        ...

    async def look_up(self, token: Secret) -> int:
        """How many seconds a token still lives.

        Raises:
            VaultAway: It may work later.
            VaultRefused: It may not look itself up.
            TokenUnknown: It does not live.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoKey:
    """Vault has no key for an attempt's model call.

    Attributes:
        why: For people: the constraint, the missing grant, or the path that is empty.
    """

    why: str


class Caller(Protocol):
    """The attempt for which a model is called: its pace, its key, and who hears of its calls."""

    async def admitted(self) -> None:
        """Waits until one more call may go out, and counts it."""
        ...

    def failed(self, error: ModelError) -> None:
        """The call that went out brought nothing."""
        ...

    def held_up(self) -> AbstractContextManager[None]:
        """Within it the runner has the attempt wait: that is told, and it does not count as missing progress."""
        ...

    def came_on(self) -> None:
        """The call that runs brought a piece of its answer. Cheap: call it for every piece."""
        ...

    async def key(self, provider: str) -> Secret | NoKey:
        """The provider's key from Vault.

        Raises:
            ModelRefused: The attempt's token may not read it.
            VaultAway: Vault was away too long.
            TokenUnknown: End the attempt.
        """
        ...

    async def key_changed(self, provider: str) -> bool:
        """Whether Vault has another key by now than the one that was refused; `key` gives it then.

        Raises:
            ModelRefused, VaultAway, TokenUnknown: As `key`.
        """
        ...


class ModelProvider(Protocol):
    """A model that can be asked. Cancelling the call ends it, on the wire too."""

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        """Asks the model once more for the conversation's next message.

        Raises:
            ModelUnavailable: It may work later.
            ModelRefused: It will not.
            VaultAway: Its key could not be read; it may work later.
            TokenUnknown: The attempt has lost its credential.
        """
        ...


class EventPublisher(Protocol):
    """The runner's way into the log."""

    async def publish(self, event: CloudEvent[Message], *, topic: str, key: str) -> None:
        """Publishes an event. `topic` has no prefix.

        Guarantee: when this returns the event is in the log, after every event that the caller published before; once,
        or, if the broker was away meanwhile, perhaps more often, each time the same. It is waited for without an end.
        """
        ...

    async def publish_all(self, events: Sequence[tuple[CloudEvent[Message], str]], *, key: str) -> None:
        """Publishes events, each to its topic, for little more than the price of one.

        Guarantee: when this returns all are in the log, those of one topic in their order, as `publish` has it.
        """
        ...


class Tools(Protocol):
    """The tools of one attempt, except those that the turn loop answers itself."""

    async def run(self, call: ToolCall) -> ToolResult:
        """Runs one call. What the model did wrong is a result with `is_error`, never an exception."""
        ...


class Workspace(Protocol):
    """One attempt's own directory, and the tools that work in it."""

    @property
    def tools(self) -> Tools:
        """The tools."""
        ...

    async def close(self) -> None:
        """Removes the directory and all in it."""
        ...


class Workspaces(Protocol):
    """Where attempts work."""

    async def open(self, pipeline_id: str, run: AgentRun, artifacts: Sequence[WrittenArtifact]) -> Workspace:
        """Makes an attempt's workspace: inputs, the artifacts of the tasks before it, and its own of earlier turns.

        Raises:
            UnusableInput: A name is hostile, two inputs have one name, there is too much, or a body is missing.
            OSError: The disk does not work now.
            ArtifactStoreUnavailable: The store does not.
        """
        ...
