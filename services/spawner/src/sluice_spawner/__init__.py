"""Decides: pipelines, tasks, agents, leases, timers."""
