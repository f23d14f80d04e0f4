"""Checkpoints in the store, from which a training goes on after any kill, on any number of ranks."""
