"""The control tier: makes the broker's streams and consumers, keeps them tidy, and is the management API."""
