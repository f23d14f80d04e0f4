"""Sources, suites and preparation of training data."""
