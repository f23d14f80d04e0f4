"""Work steps as pods: what a pod is made of, and why one failed. Plain data in and out; the client is elsewhere."""
