"""The ports on Kubernetes: copies as Deployments, traffic by the Gateway API, counts from Prometheus."""
