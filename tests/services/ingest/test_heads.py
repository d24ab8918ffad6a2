"""Which heads the express lane takes: plain ones; all that is unusual in any way is left to aiohttp."""

import pytest

from services.ingest import heads
from services.ingest.forms import ARRAY, BINARY, JSON, LINES, STRUCTURED
from services.ingest.heads import MAX_ATTRIBUTES, MAX_HEAD_BYTES, MAX_HEADERS, REMEMBERED, REMEMBERED_BYTES, Head, Heads

MAX_BODY = 65_536
LINE = "POST /api/v1/events HTTP/1.1"
HOST, TYPE, LENGTH = "Host: gateway", "Content-Type: application/json", "Content-Length: 7"


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def read(head: bytes, max_body: int) -> Head | None:
    return Heads(max_body).read(head)


def lines(*given: str) -> bytes:
    return "\r\n".join([*given, "", ""]).encode("latin-1")


def plain(*more: str) -> bytes:
    return lines(LINE, HOST, TYPE, LENGTH, *more)


TAKEN = {
    "the least": (plain(), Head(JSON, 7, "")),
    "a batch": (lines("POST /api/v1/events/batch HTTP/1.1", HOST, TYPE, LENGTH), Head(ARRAY, 7, "")),
    "lower case": (lines(LINE, "host: a", "content-type: application/json", "content-length: 7"), Head(JSON, 7, "")),
    "upper case": (lines(LINE, "HOST: A", "CONTENT-TYPE: APPLICATION/JSON", "CONTENT-LENGTH: 7"), Head(JSON, 7, "")),
    "no blank after the colons": (lines(LINE, "Host:a", "Content-Type:application/json", "Content-Length:7"), Head(JSON, 7, "")),
    "charset": (lines(LINE, HOST, TYPE + "; charset=utf-8", LENGTH), Head(JSON, 7, "")),
    "charset without a blank": (lines(LINE, HOST, TYPE + ";charset=UTF-8", LENGTH), Head(JSON, 7, "")),
    "an id": (plain("X-Request-Id: abc-1"), Head(JSON, 7, "abc-1")),
    "an id that is not fit": (plain("X-Request-Id: a b<\xe9>"), Head(JSON, 7, "a b<\xe9>")),
    "kept": (plain("Connection: keep-alive"), Head(JSON, 7, "")),
    "kept, in capitals": (plain("Connection: Keep-Alive"), Head(JSON, 7, "")),
    "leading zeros": (lines(LINE, HOST, TYPE, "Content-Length: 0000007"), Head(JSON, 7, "")),
    "the largest body": (lines(LINE, HOST, TYPE, f"Content-Length: {MAX_BODY}"), Head(JSON, MAX_BODY, "")),
    "what clients send": (
        plain("User-Agent: x/1", "Accept: */*", "Accept-Encoding: gzip, br", "Cookie: a=b"),
        Head(JSON, 7, ""),
    ),
    "trace and authorization": (plain("traceparent: 00-a-b-01", "Authorization: Bearer x"), Head(JSON, 7, "", credential="x")),
    "a trace": (plain(f"traceparent: {TRACE}"), Head(JSON, 7, "", traceparent=TRACE)),
    "a trace, in capitals": (plain(f"Traceparent:{TRACE}"), Head(JSON, 7, "", traceparent=TRACE)),
    "what is no trace": (plain(f"traceparent: {TRACE}-more"), Head(JSON, 7, "")),
    "two traces": (plain(f"traceparent: {TRACE}", f"traceparent: {TRACE[:-2]}00"), Head(JSON, 7, "", traceparent=TRACE)),
    "a key": (plain("X-API-Key: x"), Head(JSON, 7, "", credential="x")),
    "repeated headers of no meaning": (plain("X-A: 1", "X-A: 2", "Accept: a", "Accept: b"), Head(JSON, 7, "")),
    "an empty header": (plain("X-A:"), Head(JSON, 7, "")),
    "64 headers": (plain(*(f"X-{number}: v" for number in range(MAX_HEADERS - 3))), Head(JSON, 7, "")),
    "lines": (
        lines("POST /api/v1/events/batch HTTP/1.1", HOST, "Content-Type: application/x-ndjson", LENGTH),
        Head(LINES, 7, ""),
    ),
    "a CloudEvent": (
        lines(LINE, HOST, "Content-Type: application/cloudevents+json; charset=UTF-8", LENGTH),
        Head(STRUCTURED, 7, ""),
    ),
    "a CloudEvent in headers": (
        lines(
            LINE,
            "ce-id: 1",
            HOST,
            "Content-Type: Text/Plain; charset=x",
            "CE-Ext:",
            LENGTH,
            "Ce-A1: b c ",
            "Ce-B:a%20b",
            "ce-T:5",
        ),
        Head(BINARY, 7, "", "", "", {"ext": "", "a1": "b c", "b": "a b", "id": "1", "t": "5"}, b"Text/Plain; charset=x"),
    ),
    "a CloudEvent of which all has to be decoded": (
        plain("ce-id:  1", 'ce-a: "b"', "ce-long: " + "x" * 129),
        Head(BINARY, 7, "", "", "", {"id": "1", "a": "b", "long": "x" * 129}, b"application/json"),
    ),
}


@pytest.mark.parametrize(("head", "wanted"), TAKEN.values(), ids=TAKEN.keys())
def test_taken(head: bytes, wanted: Head) -> None:
    assert read(head, MAX_BODY) == wanted


HANDED_OVER = {
    # the request line
    "GET": lines("GET /api/v1/events HTTP/1.1", HOST),
    "PUT": lines("PUT /api/v1/events HTTP/1.1", HOST, TYPE, LENGTH),
    "post": lines("post /api/v1/events HTTP/1.1", HOST, TYPE, LENGTH),
    "another path": lines("POST /api/v1/other HTTP/1.1", HOST, TYPE, LENGTH),
    "a slash at the end": lines("POST /api/v1/events/ HTTP/1.1", HOST, TYPE, LENGTH),
    "two slashes": lines("POST //api/v1/events HTTP/1.1", HOST, TYPE, LENGTH),
    "a query": lines("POST /api/v1/events?a=b HTTP/1.1", HOST, TYPE, LENGTH),
    "an empty query": lines("POST /api/v1/events? HTTP/1.1", HOST, TYPE, LENGTH),
    "a fragment": lines("POST /api/v1/events#x HTTP/1.1", HOST, TYPE, LENGTH),
    "an escaped path": lines("POST /api/v1/%65vents HTTP/1.1", HOST, TYPE, LENGTH),
    "dots": lines("POST /api/v1/x/../events HTTP/1.1", HOST, TYPE, LENGTH),
    "the absolute form": lines("POST http://gateway/api/v1/events HTTP/1.1", HOST, TYPE, LENGTH),
    "the authority form": lines("CONNECT gateway:80 HTTP/1.1", HOST),
    "the asterisk form": lines("OPTIONS * HTTP/1.1", HOST),
    "HTTP/1.0": lines("POST /api/v1/events HTTP/1.0", HOST, TYPE, LENGTH),
    "HTTP/2.0": lines("POST /api/v1/events HTTP/2.0", HOST, TYPE, LENGTH),
    "HTTP/1.2": lines("POST /api/v1/events HTTP/1.2", HOST, TYPE, LENGTH),
    "HTTP/0.9": lines("POST /api/v1/events"),
    "two blanks": lines("POST  /api/v1/events HTTP/1.1", HOST, TYPE, LENGTH),
    "an empty line before": b"\r\n" + plain(),
    # credentials that cannot be told from each other, or cannot be any
    "two authorizations": plain("Authorization: Bearer x", "Authorization: Bearer x"),
    "two keys": plain("X-API-Key: x", "X-API-Key: y"),
    "an authorization and a key": plain("Authorization: Bearer x", "X-API-Key: x"),
    "another scheme": plain("Authorization: Basic eDp5"),
    # framing
    "no length": lines(LINE, HOST, TYPE),
    "an empty length": lines(LINE, HOST, TYPE, "Content-Length:"),
    "length 0": lines(LINE, HOST, TYPE, "Content-Length: 0"),
    "length -1": lines(LINE, HOST, TYPE, "Content-Length: -1"),
    "length +7": lines(LINE, HOST, TYPE, "Content-Length: +7"),
    "length 7.0": lines(LINE, HOST, TYPE, "Content-Length: 7.0"),
    "length 0x7": lines(LINE, HOST, TYPE, "Content-Length: 0x7"),
    "length 7,7": lines(LINE, HOST, TYPE, "Content-Length: 7,7"),
    "length 7 7": lines(LINE, HOST, TYPE, "Content-Length: 7 7"),
    "length of other digits": lines(LINE, HOST, TYPE, "Content-Length: \xb2"),
    "length of 8 digits": lines(LINE, HOST, TYPE, "Content-Length: 00000007"),
    "length over the limit": lines(LINE, HOST, TYPE, f"Content-Length: {MAX_BODY + 1}"),
    "length of 2^64 + 7": lines(LINE, HOST, TYPE, f"Content-Length: {2**64 + 7}"),
    "the length twice": plain(LENGTH),
    "two lengths": plain("Content-Length: 8"),
    "two lengths, one in lower case": plain("content-length: 7"),
    "chunked": lines(LINE, HOST, TYPE, "Transfer-Encoding: chunked"),
    "length and chunked": plain("Transfer-Encoding: chunked"),
    "chunked and length": lines(LINE, HOST, TYPE, "Transfer-Encoding: chunked", LENGTH),
    "an unknown coding": plain("Transfer-Encoding: xchunked"),
    "an empty coding": plain("Transfer-Encoding:"),
    # other headers
    "no host": lines(LINE, TYPE, LENGTH),
    "an empty host": lines(LINE, "Host:", TYPE, LENGTH),
    "two hosts": plain("Host: other"),
    "the host twice": plain(HOST),
    "no type": lines(LINE, HOST, LENGTH),
    "two types": plain("Content-Type: application/json"),
    "text": lines(LINE, HOST, "Content-Type: text/plain", LENGTH),
    "a form": lines(LINE, HOST, "Content-Type: application/x-www-form-urlencoded", LENGTH),
    "another charset": lines(LINE, HOST, TYPE + "; charset=latin-1", LENGTH),
    "a charset in quotes": lines(LINE, HOST, TYPE + '; charset="utf-8"', LENGTH),
    "CloudEvents": lines(LINE, HOST, "Content-Type: application/cloudevents+xml", LENGTH),
    "close": plain("Connection: close"),
    "close and more": plain("Connection: keep-alive, close"),
    "an upgrade": plain("Connection: Upgrade", "Upgrade: websocket"),
    "hop by hop": plain("Connection: X-A"),
    "Connection twice": plain("Connection: keep-alive", "Connection: keep-alive"),
    "Upgrade alone": plain("Upgrade: h2c"),
    "HTTP2-Settings": plain("HTTP2-Settings: AAMAAABkAAQ"),
    "Expect": plain("Expect: 100-continue"),
    "expect in lower case": plain("expect: 100-continue"),
    "Prefer": plain("Prefer: wait=0"),
    "compressed": plain("Content-Encoding: gzip"),
    "not compressed, but said": plain("Content-Encoding: identity"),
    "TE": plain("TE: trailers"),
    "Trailer": plain("Trailer: X-A"),
    "Keep-Alive": plain("Keep-Alive: timeout=5"),
    "Proxy-Connection": plain("Proxy-Connection: keep-alive"),
    "two agents": plain("User-Agent: a", "User-Agent: b"),
    "two ids": plain("X-Request-Id: a", "X-Request-Id: a"),
    # attributes of a CloudEvent
    "an attribute of another name": plain("ce-a_b: x"),
    "an attribute without a name": plain("ce-: x"),
    "an attribute and a blank": plain("ce-id : x"),
    "an attribute outside ASCII": plain("ce-id: \xe9"),
    "an attribute that is wrong": plain("ce-ext: %C0%A0"),
    "an attribute with a tab": plain("ce-id:\tx"),
    "an attribute that is folded": plain("ce-id: x", " y"),
    "attributes and no type": lines(LINE, HOST, "ce-id: x", LENGTH),
    "attributes and no data": lines(LINE, HOST, "ce-id: x", TYPE, "Content-Length: 0"),
    "attributes and a type of a CloudEvent": lines(LINE, HOST, "ce-id: x", "Content-Type: Application/CloudEvents+json", LENGTH),
    "attributes to the batch route": plain("ce-id: x").replace(b"events ", b"events/batch "),
    "33 attributes": plain(*(f"ce-x{number}: y" for number in range(MAX_ATTRIBUTES + 1))),
    "attributes over 8 KiB": plain(*(f"ce-x{number}: {'y' * 400}" for number in range(MAX_ATTRIBUTES))),
    # syntax
    "65 headers": plain(*(f"X-{number}: v" for number in range(MAX_HEADERS - 2))),
    "over 8 KiB": plain("X-A: " + "v" * MAX_HEAD_BYTES),
    "obs-fold": lines(LINE, HOST, TYPE, LENGTH, "X-A: 1", " 2"),
    "obs-fold by a tab": lines(LINE, HOST, TYPE, LENGTH, "X-A: 1", "\t2"),
    "a fold before the first header": lines(LINE, " X-A: 1", HOST, TYPE, LENGTH),
    "NUL in a value": plain("X-A: a\0b"),
    "NUL in a name": plain("X-\0A: a"),
    "a control character": plain("X-A: a\x01b"),
    "a bare line feed": plain("X-A: 1\nX-B: 2"),
    "a bare carriage return": plain("X-A: 1\rX-B: 2"),
    "all bare line feeds": plain().replace(b"\r\n", b"\n"),
    "a blank before the colon": lines(LINE, HOST, TYPE, "Content-Length : 7"),
    "a blank before the name": lines(LINE, HOST, TYPE, LENGTH, " X-A: 1"),
    "no colon": plain("nothing"),
    "no name": plain(": value"),
    "a name that is no token": plain("X(A): 1"),
    "a name outside ASCII": plain("X-\xe9: 1"),
    "not ended": plain()[:-2],
    "nothing": b"",
    "an empty line": b"\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
}


@pytest.mark.parametrize("head", HANDED_OVER.values(), ids=HANDED_OVER.keys())
def test_handed_over(head: bytes) -> None:
    assert read(head, MAX_BODY) is None
    remembering = Heads(MAX_BODY)
    assert (remembering.read(head), remembering.read(head)) == (None, None)


@pytest.mark.parametrize("name", sorted(heads._UNUSUAL))
def test_a_header_of_another_kind_hands_over_in_any_case(name: bytes) -> None:
    for spelt in (name, name.upper(), name.title()):
        assert read(plain(f"{spelt.decode()}: x"), MAX_BODY) is None


def test_the_limit_of_8_kib_is_exact() -> None:
    room = MAX_HEAD_BYTES - len(plain("X-A: "))
    assert read(plain("X-A: " + "v" * room), MAX_BODY) == Head(JSON, 7, "")
    assert read(plain("X-A: " + "v" * (room + 1)), MAX_BODY) is None


@pytest.mark.parametrize(("head", "wanted"), TAKEN.values(), ids=TAKEN.keys())
def test_what_is_remembered_is_what_was_read(head: bytes, wanted: Head) -> None:
    remembering = Heads(MAX_BODY)
    assert (remembering.read(head), remembering.read(head), remembering.read(head)) == (wanted, wanted, wanted)


def test_the_memory_is_bounded() -> None:
    remembering = Heads(MAX_BODY)
    for number in range(3 * REMEMBERED + 7):
        assert remembering.read(plain(f"X-Request-Id: {number}")) == Head(JSON, 7, str(number))
        assert len(remembering._seen) <= REMEMBERED
    assert remembering._seen
    remembering.read(plain())
    long = plain("X-A: " + "v" * REMEMBERED_BYTES)
    assert remembering.read(long) == Head(JSON, 7, "")
    assert long not in remembering._seen
    assert plain() in remembering._seen


def test_attributes_differ_and_the_rest_is_remembered() -> None:
    remembering = Heads(MAX_BODY)
    for number in range(100):
        found = remembering.read(plain(f"ce-id: {number}"))
        assert found == Head(BINARY, 7, "", "", "", {"id": str(number)}, b"application/json")
    assert (len(remembering._attributed), len(remembering._seen)) == (1, 0)
    assert remembering.read(plain()) == Head(JSON, 7, ""), "without attributes the same lines mean something else"


def test_traces_differ_and_the_rest_is_remembered() -> None:
    here = Heads(MAX_BODY)
    for number in range(10):
        trace = f"{TRACE[:-4]}{number}-01"
        assert here.read(plain(f"traceparent: {trace}")) == Head(JSON, 7, "", traceparent=trace)
    assert list(here._seen) == [plain()]


def test_what_is_not_plain_is_not_remembered() -> None:
    remembering = Heads(MAX_BODY)
    for head in HANDED_OVER.values():
        remembering.read(head)
    assert (remembering._seen, remembering._attributed) == ({}, {})
