"""The services of TAS MCP, one package each. They meet only on the broker: none imports another (``dev`` excepted)."""
