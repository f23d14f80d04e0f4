"""From a trained model to a bento that serves it."""
