"""Every message, defined once. Commands are imperative, events past tense; a type has one class of writers."""

from sluice_contracts.messages import admission, agent, pipeline
from sluice_contracts.messages.base import Message, message, registry

__all__ = ["Message", "admission", "agent", "message", "pipeline", "registry"]
