"""Finds personal data in chat text: e-mail and IP addresses, telephone and card numbers, IBANs and keys.

The search uses patterns with checks. It does not find names, streets or stories, so a text without a finding may still
be personal. The work is bounded for any text, values are reported masked, and no text leaves this machine.

Telephone numbers are found by `phonenumbers`. Keys are found by those plugins of `detect-secrets` that look for the
fixed form of one vendor's key. Its other plugins are not used: the entropy plugins report every hash and base64 string,
the keyword plugin reports "password: …" in any question about code, and some look only for a length after the word
"key". The patterns of two more (OpenAI, npm) take quadratic time on hostile lines and are replaced by _VENDOR_KEYS.
"""

from __future__ import annotations

import ipaddress
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from phonenumbers import Leniency, PhoneNumberMatcher

# These patterns cut candidates out of a text in linear time; slower checks then look at the candidates only.
_EMAIL: Final = re.compile(r"(?<=[\w.%+-])@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_EMAIL_LOCAL_PART: Final = re.compile(r"[\w.%+-]{1,64}$")
_IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_CARD: Final = re.compile(
    r"(?<![\w.-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w-]|\.\d)"
)
_IBAN: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_INTERNATIONAL: Final = re.compile(r"[+＋]\(?[1-9](?:[ \t\u00a0./()-]{0,2}\d){6,16}")
_NATIONAL: Final = re.compile(r"(?<![\w.+-])\(?\d(?:[ \t\u00a0./()-]{0,2}\d){5,16}(?![\w.])")
_VENDOR_KEYS: Final = (  # each begins with its fixed letters, which makes the search fast
    re.compile(r"sk-(?<![\w-]sk-)[A-Za-z0-9_-]{32,200}"),  # OpenAI, Anthropic, and vendors with the same form
    re.compile(r"hf_(?<!\whf_)[A-Za-z0-9]{30,40}(?!\w)"),  # Hugging Face
    re.compile(r"github_pat_(?<!\wgithub_pat_)[A-Za-z0-9_]{60,90}(?!\w)"),
    re.compile(r"AIza(?<!\wAIza)[A-Za-z0-9_-]{35}(?![\w-])"),  # Google
    re.compile(r"npm_(?<!\wnpm_)[A-Za-z0-9]{36}(?!\w)"),
)
_PLUGINS: Final = tuple(
    pkgutil.resolve_name(f"detect_secrets.plugins.{plugin}")()
    for plugin in (
        "aws:AWSKeyDetector",
        "azure_storage_key:AzureStorageKeyDetector",
        "basic_auth:BasicAuthDetector",
        "discord:DiscordBotTokenDetector",
        "github_token:GitHubTokenDetector",
        "gitlab_token:GitLabTokenDetector",
        "jwt:JwtTokenDetector",
        "mailchimp:MailchimpDetector",
        "private_key:PrivateKeyDetector",
        "pypi_token:PypiTokenDetector",
        "sendgrid:SendGridDetector",
        "slack:SlackDetector",
        "square_oauth:SquareOAuthDetector",
        "stripe:StripeDetector",
        "telegram_token:TelegramBotTokenDetector",
        "twilio:TwilioKeyDetector",
    )
)
# Plugins see one window of the text at a time, because their time grows with the square of what they see. A key
# longer than the overlap, as a JSON web token may be, is missed if it lies across two windows.
_WINDOW_CHARS: Final = 4_000
_OVERLAP_CHARS: Final = 1_500
_MIN_TEXT_CHARS: Final = 6  # the shortest finding is an address such as a@b.de
_MAX_PHONE_CANDIDATES: Final = 20_000  # number that is checked in one text; takes about two seconds
# Domains that standards keep for examples and tests.
_RESERVED_DOMAINS: Final = (
    "example",
    "invalid",
    "localhost",
    "test",
    "example.com",
    "example.net",
    "example.org",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Where personal data was found. `excerpt` holds only the first characters of the value."""

    conversation_id: str
    turn: int | None
    column: str
    kind: str
    excerpt: str


def scan_rows(rows: pa.RecordBatch, regions: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield the findings in a table of examples or pairs: at most one for each kind, row and column.

    Args:
        rows: has `conversation_id`; all columns of strings and of messages are searched, ids included.
        regions: ISO countries, as in `scan_text`.
    """
    ids = rows["conversation_id"].to_pylist()
    turns = rows["turn"].to_pylist() if "turn" in rows.schema.names else itertools.repeat(None, len(ids))
    keys = list(zip(ids, turns, strict=True))
    for field in rows.schema:
        if not (pa.types.is_string(field.type) or pa.types.is_list(field.type)):
            continue
        for (conversation, turn), value in zip(keys, rows[field.name].to_pylist(), strict=True):
            found: dict[str, str] = {}
            for text in _iter_texts(value):
                found = scan_text(text, regions) | found
            for kind, excerpt in found.items():
                yield Finding(conversation, turn, field.name, kind, excerpt)


def _iter_texts(value: Any) -> Iterator[str]:
    """Yield every string in a cell: the cell itself, elements of a list, roles and contents of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _iter_texts(element)
    elif isinstance(value, dict):
        for element in value.values():
            yield from _iter_texts(element)


def scan_text(text: str, regions: Sequence[str] = ()) -> dict[str, str]:
    """Return the kinds of personal data in a text, each with the masked beginning of its first occurrence.

    Kinds are email, phone, ip_address, card, iban, key, and too_many_numbers where the text has more telephone
    candidates than are checked.

    Args:
        text: any string.
        regions: ISO countries ("US", "DE") whose telephone numbers are also found without an international prefix.
            Numbers with a + are always found.
    """
    found: dict[str, str] = {}
    if len(text) < _MIN_TEXT_CHARS:
        return found
    for kind, finder in _FINDERS.items():
        value = finder(text)
        if value is not None:
            found[kind] = _mask_value(value)
    for kind, value in _find_phone(text, regions):
        found.setdefault(kind, _mask_value(value))
    return found


def _mask_value(value: str) -> str:
    """Return the first characters of a value (at most four) and its length, safe to print."""
    start = "".join(c if c.isascii() and c.isprintable() else "?" for c in value[: min(4, len(value) // 3)])
    return f"{start}… ({len(value)} characters)"


def _find_first(candidates: Iterator[str], check: Callable[[str], bool]) -> str | None:
    """Return the first candidate that passes a check, or None."""
    return next((candidate for candidate in candidates if check(candidate)), None)


def _find_email(text: str) -> str | None:
    """Return the first address outside the reserved domains; `git@host:path` does not count, it names no person."""
    for match in _EMAIL.finditer(text):
        local = _EMAIL_LOCAL_PART.search(text, max(0, match.start() - 64), match.start())
        domain = match.group()[1:].lower()
        reserved = any(domain == name or domain.endswith(f".{name}") for name in _RESERVED_DOMAINS)
        if local is not None and local.group() != "git" and not reserved:
            return local.group() + match.group()
    return None


def _find_ip_address(text: str) -> str | None:
    """Return the first public address. Four numbers below 20 count as a version or section, even in 8.8.8.8."""
    return _find_first((m.group() for m in _IPV4.finditer(text)), _is_public_address) or _find_first(
        (m.group() for m in _IPV6.finditer(text)), _is_public_address
    )


def _is_public_address(value: str) -> bool:
    """Return whether a candidate is a public IP address and not a version number."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return address.is_global and (address.version == 6 or any(number >= 20 for number in address.packed))


def _find_card_number(text: str) -> str | None:
    """Return the first card number: grouped as on a card or not at all, with an issuer's prefix and Luhn's check digit.

    Numbers of only one or two different digits, such as the test number 4111 1111 1111 1111, do not count.
    """
    return _find_first((m.group() for m in _CARD.finditer(text)), _is_card_number)


def _is_card_number(value: str) -> bool:
    """Return whether a candidate has an issuer's prefix and the right check digit."""
    digits = [int(c) for c in value if c.isdigit()]
    prefix = int("".join(map(str, digits[:4])))
    issued = (
        len(digits) == 15  # in the pattern, only American Express numbers have this length
        or digits[0] == 4
        or 5100 <= prefix <= 5599
        or 2221 <= prefix <= 2720
        or prefix == 6011
        or prefix // 100 in (62, 65)
        or 3528 <= prefix <= 3589
    )
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return issued and len(set(digits)) > 2 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _find_iban(text: str) -> str | None:
    """Return the first IBAN with right check digits."""
    return _find_first((m.group() for m in _IBAN.finditer(text)), _is_iban)


def _is_iban(value: str) -> bool:
    """Return whether a candidate is an IBAN, also without its last two words: upper-case words may follow it."""
    words = value.split(" ")
    return any(_has_iban_check_digits("".join(words[: len(words) - left_out])) for left_out in range(3))


def _has_iban_check_digits(value: str) -> bool:
    """Return whether the check digits are right by ISO 13616: letters are 10 to 35, the first four characters go last."""
    return 15 <= len(value) <= 34 and int("".join(str(int(c, 36)) for c in value[4:] + value[:4])) % 97 == 1


def _find_key(text: str) -> str | None:
    """Return the first key, by _VENDOR_KEYS and then by the plugins."""
    for pattern in _VENDOR_KEYS:
        value = _find_first((m.group() for m in pattern.finditer(text)), _has_digits_and_both_cases)
        if value is not None:
            return value
    for start in range(0, max(1, len(text) - _OVERLAP_CHARS), _WINDOW_CHARS - _OVERLAP_CHARS):
        window = text[start : start + _WINDOW_CHARS]
        for plugin in _PLUGINS:
            value = next(iter(plugin.analyze_string(window)), None)
            if value is not None:
                return str(value)
    return None


def _has_digits_and_both_cases(value: str) -> bool:
    """Return whether a value has digits, capitals and small letters: a key has, a long hyphenated name has not."""
    secret = value[3:]
    return any(c.isdigit() for c in secret) and secret.lower() != secret and secret.upper() != secret


def _find_phone(text: str, regions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield ("phone", first valid number), or ("too_many_numbers", candidate) if there are too many candidates."""
    spans = itertools.chain(
        ((m.span(), None) for m in _INTERNATIONAL.finditer(text)),
        ((m.span(), region) for region in regions for m in _NATIONAL.finditer(text)),
    )
    for number, ((start, end), region) in enumerate(spans):
        if number >= _MAX_PHONE_CANDIDATES:
            yield "too_many_numbers", text[start:end]
            return
        context = text[max(0, start - 2) : end + 2]
        match = next(iter(PhoneNumberMatcher(context, region, Leniency.VALID)), None)
        if match is not None:
            yield "phone", match.raw_string
            return


_FINDERS: Final[dict[str, Callable[[str], str | None]]] = {
    "email": _find_email,
    "ip_address": _find_ip_address,
    "card": _find_card_number,
    "iban": _find_iban,
    "key": _find_key,
}
