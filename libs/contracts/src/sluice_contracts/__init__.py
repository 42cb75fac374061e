"""What may be said: messages, ids, the topic table, the codec. No I/O."""
