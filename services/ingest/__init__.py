"""The ingest tier: protocols in, checks, a durable publish, and only then an answer."""
