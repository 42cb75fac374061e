"""The life of tokens, as pure decisions: no clock, no random number, no I/O."""
