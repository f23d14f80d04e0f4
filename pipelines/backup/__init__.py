"""Backups of a whole installation: what serves, both databases, the model specs. Saved by content."""
