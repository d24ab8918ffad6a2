"""Targets from files: read, checked as a whole, and every problem told with file and line.

A file is YAML 1.2 or JSON. Each of its documents is one target, a list of targets, or ``{"targets": [...]}``. In all but the
rules a text may refer to an environment variable, for secrets: ``${NAME}`` (``$${NAME}`` stands for ``${NAME}`` itself).
"""

from tas_mcp.target_files.checking import Checked, FileTarget, Problem, check
from tas_mcp.target_files.loading import Snapshot, load

__all__ = ["Checked", "FileTarget", "Problem", "Snapshot", "check", "load"]
