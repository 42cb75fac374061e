"""Remembers and shows: the event log, SQL, HTTP and the live stream."""
