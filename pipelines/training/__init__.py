"""Training: one supervised torchrun per training, its loop, and checkpoints from which any kill is survived."""
