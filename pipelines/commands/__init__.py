"""Groups of commands that `python -m pipelines` mounts."""
