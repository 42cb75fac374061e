"""Owns the life of credentials: mints, seals, renews, revokes."""
