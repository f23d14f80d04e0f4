"""Releases: replace what serves by start-new, verify, switch, drain, stop-old; roll back at any point."""
