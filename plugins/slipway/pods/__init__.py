"""Work steps as pods of a Kubernetes cluster; imported on that platform only."""
