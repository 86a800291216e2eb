"""Spider, BIRD and own databases: examples in, official scores out."""
