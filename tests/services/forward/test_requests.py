"""The heads of requests."""

import pytest

from services.forward.requests import request_head


@pytest.mark.parametrize(
    ("endpoint", "line", "host"),
    [
        ("http://a.example", "POST / HTTP/1.1", "a.example"),
        ("http://a.example:8080/x?y", "POST /x?y HTTP/1.1", "a.example:8080"),
        ("http://[::1]:80/", "POST / HTTP/1.1", "[::1]:80"),
        ("http://bücher.example/ü", "POST /%C3%BC HTTP/1.1", "xn--bcher-kva.example"),
        ("https://a.example/a%2Fb?c=%20#fragment", "POST /a%2Fb?c=%20 HTTP/1.1", "a.example"),
    ],
)
def test_the_head_of_a_request(endpoint: str, line: str, host: str) -> None:
    found = request_head("POST", endpoint, {"X-A": "b"}).decode().split("\r\n")
    assert found == [line, f"Host: {host}", "X-A: b", ""]


@pytest.mark.parametrize(
    ("url", "query", "line"),
    [
        ("http://a/x", {"b": "c d"}, "PUT /x?b=c%20d HTTP/1.1"),
        ("http://a?x=1", {"b": "&=é", "c": ""}, "PUT /?x=1&b=%26%3D%C3%A9&c= HTTP/1.1"),
        ("http://a/", {"\r\nX: y": "\r\n"}, "PUT /?%0D%0AX%3A%20y=%0D%0A HTTP/1.1"),
    ],
)
def test_a_query_is_added(url: str, query: dict[str, str], line: str) -> None:
    assert request_head("PUT", url, {}, query).decode().split("\r\n")[0] == line
