"""Plan before spend: what a training will take, told before it starts, and compared with what it took."""
