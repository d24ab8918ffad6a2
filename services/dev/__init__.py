"""The whole gateway in one process, with an embedded broker: for a laptop, and for trying things out."""
