"""How good a model is, with how much certainty, and whether that is good enough."""
