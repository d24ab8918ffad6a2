"""How a delivery attempt can go wrong."""

from tas_mcp.errors import Rejected, Unavailable


class Refused(Rejected):
    """The target will never take it. ``status`` is its own status code, ``response`` the beginning of what it said."""

    def __init__(self, status: int, detail: str, *, response: str = "") -> None:
        super().__init__("REFUSED", detail)
        self.status = status
        self.response = response


class Gone(Refused):
    """It will never take anything again: the target is to be disabled."""


class Failed(Unavailable):
    """It may take it later. ``status`` 0: it gave no answer, 429: it has too much to do; ``retry_after`` in seconds, 0: it did
    not say; ``response`` the beginning of what it said."""

    def __init__(self, status: int, detail: str, retry_after: float = 0.0, *, response: str = "") -> None:
        super().__init__(detail, retry_after)
        self.status = status
        self.response = response
