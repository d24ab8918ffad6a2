"""The ``tas`` command."""
