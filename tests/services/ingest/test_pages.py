"""Which web pages may open a stream."""

import pytest

from services.ingest.pages import check, listed
from tas_mcp.errors import Rejected


@pytest.mark.parametrize(
    ("origin", "host", "local"),
    [
        ("", "localhost:8080", True),
        ("", "127.0.0.1:8080", True),
        ("", "[::1]:8080", True),
        ("", "tas.example", False),
        ("http://localhost:8080", "localhost:8080", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://10.0.0.7:8080", "10.0.0.7:8080", False),
        ("https://App.example", "tas.example", False),
        ("", "app.example", True),
    ],
)
def test_may(origin: str, host: str, local: bool) -> None:
    check({"Origin": origin, "Host": host}, listed("https://app.example/, http://other.example"), local=local)


@pytest.mark.parametrize(
    ("origin", "host", "local"),
    [
        ("https://evil.example", "localhost:8080", True),
        ("https://evil.example", "tas.example", False),
        ("http://evil.example:8080", "evil.example:8080", True),  # its name leads here
        ("", "evil.example:8080", True),
        ("http://localhost:3000", "localhost:8080", True),
        ("null", "localhost:8080", True),
        ("http://localhost:8080@evil.example", "localhost:8080@evil.example", True),
        ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", True),
        ("http://[::1", "[::1", True),
        ("http://", "", True),
        ("", "", True),
    ],
)
def test_may_not(origin: str, host: str, local: bool) -> None:
    with pytest.raises(Rejected) as caught:
        check({"Origin": origin, "Host": host}, listed("https://app.example"), local=local)
    assert caught.value.code == "FORBIDDEN"
    assert "TAS_ALLOWED_ORIGINS" in caught.value.detail


def test_any_may_where_the_setting_says_so() -> None:
    check({"Origin": "https://evil.example", "Host": "localhost"}, listed("*"), local=True)
