"""Finds personal data in chat text: e-mail, telephone and IP addresses, card numbers, IBANs and keys.

It knows patterns with checks, not names, streets or stories: no finding does not mean that nothing personal
is in the text. Work is bounded whatever the text is, values are reported masked, and no service is asked.

Telephone numbers come from `phonenumbers`. Keys come from the plugins of `detect-secrets` that look for the
fixed form of one vendor's key. Left out are its entropy plugins (every hash and base64 string is a finding),
its keyword plugin ("password: …" in any code question) and those whose form is only a length after the word
"key"; two whose patterns take quadratic time on hostile lines (OpenAI, npm) are replaced below.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector
from phonenumbers import Leniency, PhoneNumberMatcher

KINDS: Final = ("email", "phone", "ip_address", "card", "iban", "key", "too_many_numbers")

# Candidates are cut out by patterns that take linear time; only they are looked at more closely.
_EMAIL: Final = re.compile(r"(?<=[\w.%+-])@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_LOCAL: Final = re.compile(r"[\w.%+-]{1,64}$")
_IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_CARD: Final = re.compile(
    r"(?<![\w.-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w-]|\.\d)"
)
_IBAN: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_INTERNATIONAL: Final = re.compile(r"[+＋]\(?[1-9](?:[ \t\u00a0./()-]{0,2}\d){6,16}")
_NATIONAL: Final = re.compile(r"(?<![\w.+-])\(?\d(?:[ \t\u00a0./()-]{0,2}\d){5,16}(?![\w.])")
_VENDOR_KEYS: Final = (  # the fixed letters first: that is what a search is fast at
    re.compile(r"sk-(?<![\w-]sk-)[A-Za-z0-9_-]{32,200}"),  # OpenAI, Anthropic and those who copied them
    re.compile(r"hf_(?<!\whf_)[A-Za-z0-9]{30,40}(?!\w)"),  # Hugging Face
    re.compile(r"github_pat_(?<!\wgithub_pat_)[A-Za-z0-9_]{60,90}(?!\w)"),
    re.compile(r"AIza(?<!\wAIza)[A-Za-z0-9_-]{35}(?![\w-])"),  # Google
    re.compile(r"npm_(?<!\wnpm_)[A-Za-z0-9]{36}(?!\w)"),
)
_PLUGINS: Final = (
    AWSKeyDetector(),
    AzureStorageKeyDetector(),
    BasicAuthDetector(),
    DiscordBotTokenDetector(),
    GitHubTokenDetector(),
    GitLabTokenDetector(),
    JwtTokenDetector(),
    MailchimpDetector(),
    PrivateKeyDetector(),
    PypiTokenDetector(),
    SendGridDetector(),
    SlackDetector(),
    SquareOAuthDetector(),
    StripeDetector(),
    TelegramBotTokenDetector(),
    TwilioKeyDetector(),
)
# Plugins see windows of the text: their time grows with the square of what they see at once. A key longer
# than the overlap (a JSON web token may be) is missed when it lies across two windows.
_WINDOW: Final = 4_000
_OVERLAP: Final = 1_500
_SHORTEST: Final = 6  # characters: a@b.de
_MAX_NUMBERS: Final = 20_000  # telephone candidates of one text that are looked at; about two seconds
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
    """Where something was found. `excerpt` has its first characters only."""

    conversation_id: str
    turn: int | None
    column: str
    kind: str
    excerpt: str


def scan_rows(rows: pa.RecordBatch, regions: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield what is found in a table of examples or pairs: one finding a kind, row and column.

    Args:
        rows: has `conversation_id`; columns of strings and of messages are scanned, ids included.
        regions: as in `scan_text`.
    """
    ids = rows["conversation_id"].to_pylist()
    turns = rows["turn"].to_pylist() if "turn" in rows.schema.names else itertools.repeat(None, len(ids))
    keys = list(zip(ids, turns, strict=True))
    for field in rows.schema:
        if not (pa.types.is_string(field.type) or pa.types.is_list(field.type)):
            continue
        for (conversation, turn), value in zip(keys, rows[field.name].to_pylist(), strict=True):
            found: dict[str, str] = {}
            for text in _texts(value):
                found = scan_text(text, regions) | found
            for kind, excerpt in found.items():
                yield Finding(conversation, turn, field.name, kind, excerpt)


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a cell: itself, list elements, contents of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _texts(element)
    elif isinstance(value, dict):
        for element in value.values():
            yield from _texts(element)


def scan_text(text: str, regions: Sequence[str] = ()) -> dict[str, str]:
    """Return the kinds of personal data in a text, each with the masked beginning of its first occurrence.

    Args:
        text: any string.
        regions: ISO countries ("US", "DE") whose telephone numbers count without an international prefix.
            Numbers with a + are found in any case.
    """
    found: dict[str, str] = {}
    if len(text) < _SHORTEST:
        return found
    for kind, finder in _FINDERS.items():
        value = finder(text)
        if value is not None:
            found[kind] = _masked(value)
    for kind, value in _phones(text, regions):
        found.setdefault(kind, _masked(value))
    return found


def _masked(value: str) -> str:
    """Return the first characters of a value, safe to print."""
    start = "".join(c if c.isascii() and c.isprintable() else "?" for c in value[: min(4, len(value) // 3)])
    return f"{start}… ({len(value)} characters)"


def _first(candidates: Iterator[str], check: Callable[[str], bool]) -> str | None:
    return next((candidate for candidate in candidates if check(candidate)), None)


def _email(text: str) -> str | None:
    """Return an address outside the domains kept for examples; `git@host:path` is a place, not a person."""
    for match in _EMAIL.finditer(text):
        local = _LOCAL.search(text, max(0, match.start() - 64), match.start())
        domain = match.group()[1:].lower()
        reserved = any(domain == name or domain.endswith(f".{name}") for name in _RESERVED_DOMAINS)
        if local is not None and local.group() != "git" and not reserved:
            return local.group() + match.group()
    return None


def _ip_address(text: str) -> str | None:
    """Return a public address. Four numbers below 20 are taken for a version or section (and are 8.8.8.8)."""
    return _first((m.group() for m in _IPV4.finditer(text)), _is_public) or _first(
        (m.group() for m in _IPV6.finditer(text)), _is_public
    )


def _is_public(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return address.is_global and (address.version == 6 or any(number >= 20 for number in address.packed))


def _card(text: str) -> str | None:
    """Return a card number: grouped as printed or not at all, an issuer's prefix, Luhn's check digit.

    Numbers of one or two digits only, such as the test number 4111 1111 1111 1111, are nobody's.
    """
    return _first((m.group() for m in _CARD.finditer(text)), _is_card)


def _is_card(value: str) -> bool:
    digits = [int(c) for c in value if c.isdigit()]
    prefix = int("".join(map(str, digits[:4])))
    issued = (
        len(digits) == 15  # the pattern lets only American Express be that long
        or digits[0] == 4
        or 5100 <= prefix <= 5599
        or 2221 <= prefix <= 2720
        or prefix == 6011
        or prefix // 100 in (62, 65)
        or 3528 <= prefix <= 3589
    )
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return issued and len(set(digits)) > 2 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> str | None:
    return _first((m.group() for m in _IBAN.finditer(text)), _is_iban)


def _is_iban(value: str) -> bool:
    """Check a candidate, also without its last words: an upper-case word may follow."""
    words = value.split(" ")
    return any(_has_check_digits("".join(words[: len(words) - left_out])) for left_out in range(3))


def _has_check_digits(value: str) -> bool:
    """Compute ISO 13616's remainder: letters count as 10 to 35, the first four characters go last."""
    return 15 <= len(value) <= 34 and int("".join(str(int(c, 36)) for c in value[4:] + value[:4])) % 97 == 1


def _key(text: str) -> str | None:
    for pattern in _VENDOR_KEYS:
        value = _first((m.group() for m in pattern.finditer(text)), _is_mixed)
        if value is not None:
            return value
    for start in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
        window = text[start : start + _WINDOW]
        for plugin in _PLUGINS:
            value = next(iter(plugin.analyze_string(window)), None)
            if value is not None:
                return str(value)
    return None


def _is_mixed(value: str) -> bool:
    """Tell a key from a long hyphenated name: it has digits, and capitals as well as small letters."""
    secret = value[3:]
    return any(c.isdigit() for c in secret) and secret.lower() != secret and secret.upper() != secret


def _phones(text: str, regions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the first valid number; or, as its own kind, that there were too many candidates to look at."""
    spans = itertools.chain(
        ((m.span(), None) for m in _INTERNATIONAL.finditer(text)),
        ((m.span(), region) for region in regions for m in _NATIONAL.finditer(text)),
    )
    for number, ((start, end), region) in enumerate(spans):
        if number >= _MAX_NUMBERS:
            yield "too_many_numbers", text[start:end]
            return
        context = text[max(0, start - 2) : end + 2]
        match = next(iter(PhoneNumberMatcher(context, region, Leniency.VALID)), None)
        if match is not None:
            yield "phone", match.raw_string
            return


_FINDERS: Final[dict[str, Callable[[str], str | None]]] = {
    "email": _email,
    "ip_address": _ip_address,
    "card": _card,
    "iban": _iban,
    "key": _key,
}
