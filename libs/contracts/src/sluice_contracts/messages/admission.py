"""What pipelines and the arbiter of the installation's limit of agents say to each other (P13).

Both are the spawner's. All requests have one key, so that one partition has them in one order, first come first served;
grants have the pipeline's. Neither has a sequence: a request's number does its work.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from sluice_contracts import ids
from sluice_contracts.messages.base import Count, Identifier, Message, Ordinal, message

Slots = Annotated[Count, Field(description="Agents that may live at once.")]


@message("admission.requested")
class AdmissionRequested(Message):
    """A pipeline wants to have so many slots in all, from now on; 0 gives all back."""

    only_subject: ClassVar[str | None] = ids.INSTALLATION_ID

    pipeline_id: Identifier
    slots: Slots
    held: Slots = Field(default=0, description="What it has of them already, as far as it has heard.")
    number: Ordinal = Field(description="Rises with every request of the pipeline; one that does not is a repetition.")


@message("admission.granted")
class AdmissionGranted(Message):
    """A pipeline has so many slots in all. It counts if it answers the pipeline's latest request."""

    slots: Ordinal
    number: Ordinal = Field(description="Of the request that it answers, perhaps in part.")
