"""What every fold of the read model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_observability.domain.views import PipelineView

Fold = Callable[[PipelineView, Any, CloudEvent[Message]], None]
"""Takes what an event says, of a type that the dispatch table names, into the view of its pipeline."""
