"""The search for personal data: what it finds, what it leaves alone, and that no text makes it slow."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

from drift_data.publish.personal_data import Finding, scan_rows, scan_text
from drift_data.schema import DSAT_ROWS

# Fixed examples of the standards and vendors themselves; none belongs to anybody.
FOUND = [
    ("email", "write to ann.lee+chat@corp-mail.de."),
    ("email", "mailto:ä.müller@uni-köln.example.de.com,"),
    ("phone", "call +49 30 901820 today"),
    ("phone", "+1 650-253-0000"),
    ("phone", "tel:+442079460958"),
    ("ip_address", "it came from 93.184.216.34."),
    ("ip_address", "[2606:2800:220:1:248:1893:25c8:1946]"),
    ("card", "5500 0055 5555 5559"),
    ("card", "card 4012888888881881, thanks"),
    ("card", "378282246310005"),
    ("iban", "to DE89 3704 0044 0532 0130 00 PLEASE"),
    ("iban", "GB82WEST12345698765432"),
    ("key", "AKIAIOSFODNN7EXAMPLE"),
    ("key", "token = ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"),
    ("key", "sk-proj-AbC1dEf2GhI3jKl4MnO5pQr6StU7vWx8YzA9"),
    ("key", "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"),
    ("key", "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"),
    ("key", "npm_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"),
    ("key", "github_pat_" + "a1B2c3D4e5F6" * 6),
    ("key", "-----BEGIN RSA PRIVATE KEY-----"),
    ("key", "postgres://admin:hunter2@db/prod"),
    (
        "key",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0."
        "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
    ),
]
LEFT_ALONE = [
    "user@example.com and root@localhost",
    "git clone git@github.com:owner/repo.git",
    "npm install react@18.2.0 @types/node",
    "version 1.2.3.4, section 2.4.1.1, 8.8.8.8",
    "10.0.0.1 192.168.1.10 127.0.0.1 255.255.255.0",
    "at 12:34:56 or 2021:10:11",
    "std::vector and dead::beef",
    "4111 1111 1111 1111",
    "5500 0055 5555 5558",  # wrong check digit
    "order 1234567812345670",  # right check digit, no issuer
    "DE89 3704 0044 0532 0130 01",  # wrong check digits
    "AB12 CDEF 3456 GHIJ",
    "3.141592653589793 +1.2345678 1_700_000_000_000",
    "650-253-0000",  # no region given
    "task-AbC1dEf2GhI3jKl4MnO5pQr6StU7vWx8YzA9",
    "sk-circle-fade-animation-dot-one-two-three",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "password = input('password: ')",
    "",
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_personal_data_is_found_under_its_kind(kind: str, text: str) -> None:
    assert kind in scan_text(text)
    assert kind in scan_text(f"Hello,\nsee below\n\n{text}\nbye")


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert scan_text(text) == {}


def test_national_numbers_count_where_their_region_is_named() -> None:
    assert scan_text("call 650-253-0000", ["US"]).keys() == {"phone"}
    assert scan_text("call 030 901820", ["US"]) == {}
    assert scan_text("call 030 901820", ["US", "DE"]).keys() == {"phone"}


def test_values_are_reported_by_their_first_characters_only() -> None:
    assert scan_text("ann.lee@corp-mail.de") == {"email": "ann.… (20 characters)"}
    assert scan_text("x://u:abcdef@h/") == {"key": "ab… (6 characters)"}  # a short one shows less
    assert scan_text("éß@corp-mail.de") == {"email": "??@c… (15 characters)"}  # nothing a terminal acts on


@pytest.mark.parametrize("offset", [*range(3_900, 4_100, 7), 2_500, 5_000, 9_999])
def test_a_key_is_found_wherever_it_lies_in_a_long_text(offset: int) -> None:
    text = "x " * (offset // 2) + "AKIAIOSFODNN7EXAMPLE" + " y" * 5_000
    assert scan_text(text).keys() == {"key"}


def test_rows_are_scanned_column_by_column_and_named_by_key() -> None:
    clean = [{"role": "user", "content": "hi"}]
    row = {
        "turn": 4,
        "split": "train",
        "prompt": [*clean, {"role": "assistant", "content": "mail ann@corp-mail.de or bob@corp-mail.de"}],
        "rejected": clean,
        "feedback": "no, 93.184.216.34",
        "items": ["Revision", "+49 30 901820"],
        "reason": None,
    }
    rows = [
        {**row, "conversation_id": "a"},
        {**row, "conversation_id": "cy@corp-mail.de", "prompt": clean, "feedback": None, "items": None},
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=DSAT_ROWS)
    assert sorted(scan_rows(batch), key=lambda f: (f.conversation_id, f.column)) == [
        Finding("a", 4, "feedback", "ip_address", "93.1… (13 characters)"),
        Finding("a", 4, "items", "phone", "+49 … (13 characters)"),
        Finding("a", 4, "prompt", "email", "ann@… (16 characters)"),
        Finding("cy@corp-mail.de", 4, "conversation_id", "email", "cy@c… (15 characters)"),
    ]


# Runs that invite backtracking or millions of candidates: one for each pattern.
HOSTILE = [
    "a@",
    "a@a.",
    "1.",
    "1 ",
    "+1",
    "+9 ",
    "AA11 ",
    "2001:",
    "4111 ",
    "sk-",
    "eyJ",
    "//",
    "aws'",
    "\n",
    "é",
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    text = (unit * 1_000_000)[:1_000_000]
    started = time.process_time()
    assert scan_text(text, ["US"]).keys() <= {"too_many_numbers"}
    assert (
        time.process_time() - started < 120
    )  # 3 to 12 s at worst, by how busy the machine is; quadratic is hours


def test_too_many_number_candidates_are_reported_not_passed_over() -> None:
    assert scan_text("12345678: " * 30_000, ["US"]).keys() == {"too_many_numbers"}
    assert scan_text("12345678: " * 10_000, ["US"]) == {}
