"""How fast the product is, as ratios to what could be written by hand; ``python -m benchmarks --help``."""
