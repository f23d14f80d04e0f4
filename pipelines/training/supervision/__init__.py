"""Everything around the ranks of a training: follow them, judge whether they live, say why they failed, end them."""
