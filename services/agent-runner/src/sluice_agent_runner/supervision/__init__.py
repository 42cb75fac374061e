"""Attempts in motion: the turn machine driven with real models, tools and topics."""
