"""Ids and payloads that break stores which were careless with keys, text or numbers."""

from __future__ import annotations

import unicodedata
from functools import cache
from random import Random
from typing import Any

from esazure.keys import MAX_STREAM_NAME, encode_part

_WORDS = (
    "",
    "a",
    "a.",
    "a-",
    "a.b",
    "a-b",
    "a_",
    "a_b",
    "a_2E",
    "a_2e",
    "ab",
    "abc",
    "A",
    "AB",
    "aB",
    ".",
    "..",
    "...",
    "/",
    "//",
    "../x",
    "..\\x",
    "a/b",
    "a\\b",
    "a#b",
    "a?b",
    "a%b",
    "%",
    "%00",
    "%2F",
    "%252F",
    "%41",
    "%zz",
    "a+b",
    "a b",
    "a&b=c",
    "a;b",
    "a,b",
    "a:b",
    "a|b",
    "a~b",
    "a'b",
    "''",
    "' or 1 eq 1",
    "x' or PartitionKey ne '",
    "'; DROP TABLE commits; --",
    'a"b',
    "a`b",
    "{a}",
    "{}",
    "[]",
    "(a)",
    "<a>",
    "$a",
    "@a",
    "*",
    "_",
    "__",
    "___",
    "_41",
    "_5F",
    "_GG",
    "-",
    "--",
    "0",
    "00",
    "1",
    "01",
    "1.0",
    "1e5",
    "-1",
    "9999999999",
    "0000000001",
    "null",
    "None",
    "NaN",
    "true",
    "undefined",
    "CON",
    "nul",
    "aux.txt",
    " ",
    "  ",
    " a",
    "a ",
    "a  b",
    "\t",
    "a\tb",
    "\n",
    "a\nb",
    "a\r\nb",
    "\r",
    "\x00",
    "a\x00",
    "a\x00b",
    "\x1f",
    "\x7f",
    "\x85",
    "\xa0",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ufffd",
    "\ufffe",
    "\uffff",
    "\ue000",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1e9\U0001f1ea",
    "\U0010ffff",
    "\U00010000",
    "e\u0301",
    "\u00e9",
    "\u212b",
    "\u00c5",
    "A\u030a",
    "\ufb01",
    "fi",
    "\u00df",
    "ss",
    "SS",
    "\u1e9e",
    "I",
    "i",
    "\u0130",
    "\u0131",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u202eabc",
    "\u200f",
    "\u4f60\u597d",
    "\u3042",
    "\uff41",
    "Z\u0351\u0350a",
    "ada@example.com",
    "mailto:ada@example.com",
    "https://example.com/a?b=c#d",
    "3f2a1c9e-0d4b-4c55-9d0a-3b1c2d4e5f60",
    "3F2A1C9E-0D4B-4C55-9D0A-3B1C2D4E5F60",
    "3f2a1c9e0d4b4c559d0a3b1c2d4e5f60",
    "{3f2a1c9e-0d4b-4c55-9d0a-3b1c2d4e5f60}",
    "e.Counter.a.0000000001",
    "o.Counter.a",
    "Counter.a",
    "--boundary",
    "${jndi:ldap://x}",
)


def hostile_ids(aggregate_type: str) -> list[str]:
    """Over six hundred distinct ids that must be as many distinct streams."""
    ascii_characters = [chr(code) for code in range(128)]
    longest = MAX_STREAM_NAME - len(encode_part(aggregate_type)) - 1
    found = [
        *_WORDS,
        *ascii_characters,
        *[f"a{character}b" for character in ascii_characters],
        *[f"b{character}" for character in ascii_characters],
        *[chr(code) for code in range(0x80, 0xA1)],
        *[unicodedata.normalize("NFC", chr(code)) for code in range(0xC0, 0x100)],
        *[unicodedata.normalize("NFD", chr(code)) for code in range(0xC0, 0x100)],
        "x" * longest,
        "x" * (longest - 1),
        "y" * (longest % 3) + "." * (longest // 3),
        "\u20ac" * (longest // 9),
    ]
    return list(dict.fromkeys(found))


def id_one_over_the_limit(aggregate_type: str) -> str:
    """One character more than fits."""
    return "x" * (MAX_STREAM_NAME - len(encode_part(aggregate_type)))


def nested(depth: int) -> Any:
    """Lists and objects in each other, `depth` levels deep."""
    value: Any = "core"
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


SHAPES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**31,
    -(2**63),
    2**64,
    10**300,
    -(10**4000),
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    1e16,
    "",
    " ",
    "NaN",
    "Infinity",
    "null",
    "\x00",
    "\x01\x1f\x7f\x80\x9f",
    "line\nbreak\r\n\ttab",
    "\u2028\u2029\x85\x0b\x0c",
    '"quotes" and \\ and /',
    "\U0001f600\U0010ffff",
    "e\u0301 is not \u00e9",
    "\ufeff\ufffe\uffff\ue000",
    "x" * 40_000,
    "\u20ac" * 33_000,
    "\U0001f600" * 17_000,
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    {"": None},
    {"a b": [1, "2", None, True, {"c": []}]},
    {"__proto__": {}, "\x00": 1, "\n": 2, "\U0001f600": 3, "e\u0301": 4, "\u00e9": 5},
    [None, None],
    list(range(1_000)),
    {str(number): number for number in range(500)},
    nested(150),
)
"""What JSON can say, at its edges."""

_ASCII_WITHOUT_ESCAPES = bytes(code for code in range(0x20, 0x7F) if chr(code) not in '"\\')
_TABLE = bytes(_ASCII_WITHOUT_ESCAPES[byte % len(_ASCII_WITHOUT_ESCAPES)] for byte in range(256))


@cache
def dense(length: int) -> str:
    """Text of at most this many UTF-8 bytes that hardly compresses, of characters of one to four bytes."""
    random = Random(length)  # noqa: S311 - the same on every run is what is wanted
    ranges = (range(0x30, 0x5B), range(0xA0, 0x800), range(0x4E00, 0xA000), range(0x10000, 0x20000))
    parts = [chr(random.choice(random.choice(ranges))) + incompressible_part(random) for _ in range(length // 9)]
    return "".join(parts).encode()[:length].decode(errors="ignore")


def incompressible_part(random: Random) -> str:
    """Six ASCII characters."""
    return random.randbytes(6).translate(_TABLE).decode()


def incompressible(length: int) -> str:
    """ASCII of this length that JSON does not escape and that compresses by a fifth at best."""
    return Random(length).randbytes(length).translate(_TABLE).decode()  # noqa: S311 - the same on every run is what is wanted
