"""How a process of ours reaches the Kubernetes API, and what its refusals mean: once for steps and services."""
