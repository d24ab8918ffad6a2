"""What two or more services of TAS MCP share: the contract between the tiers, and the plumbing of every process."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tas-mcp")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
