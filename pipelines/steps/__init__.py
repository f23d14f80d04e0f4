"""The lifecycle, one module per step."""
