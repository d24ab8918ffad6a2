"""Benchmarks: ``python -m bench`` (``make bench``). Each figure stands beside its floor, measured in the same run."""
