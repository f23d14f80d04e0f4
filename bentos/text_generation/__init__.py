"""Text generation behind OpenAI's protocol: one service for all models; what it serves lies beside it in the bento."""
