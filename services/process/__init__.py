"""The process tier: one event in, one delivery per matching target out."""
