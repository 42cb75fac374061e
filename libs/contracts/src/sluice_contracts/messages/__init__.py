"""Every message, defined once. Commands are imperative, events past tense; a type has one class of writers."""

from sluice_contracts.messages import admission, agent, alert, audit, blackboard, pipeline, report, signal, token
from sluice_contracts.messages.base import Message, message, registry

__all__ = [
    "Message",
    "admission",
    "agent",
    "alert",
    "audit",
    "blackboard",
    "message",
    "pipeline",
    "registry",
    "report",
    "signal",
    "token",
]
