"""Makes text from logs safe to show: bounded in length, and with control characters spelled out.

The module does not escape text for HTML, Markdown or a shell; whoever shows the text does that.
"""

from __future__ import annotations

import unicodedata

# Format characters that stay as they are, because they act on their neighbours only: the joiners that scripts and emoji
# need, and the soft hyphen.
_HARMLESS = frozenset("\u200c\u200d\u00ad")
# Unicode categories of characters that a terminal or page obeys or cannot show: controls, formats (among them bidi
# overrides), surrogates, private use, unassigned characters, line and paragraph separators.
_ACTING_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def escape_invisible(text: str, limit: int, keep: str = "") -> str:
    r"""Return the first `limit` characters of a text, with control characters and bidi overrides spelled out.

    An escape character becomes the four visible characters `\x1b`.

    Args:
        text: any text.
        limit: number of characters of the text that are kept; the result ends with the number of those cut off.
        keep: control characters that stay as they are, such as a line break.
    """
    shown = "".join(c if c in keep or not _is_acting(c) else f"\\{_spell(c)}" for c in text[:limit])
    cut = len(text) - limit
    return shown if cut <= 0 else f"{shown}… ({cut:,} more characters)"


def _is_acting(character: str) -> bool:
    return unicodedata.category(character) in _ACTING_CATEGORIES and character not in _HARMLESS


def _spell(character: str) -> str:
    """Return Python's escape sequence of a character, without the backslash."""
    code = ord(character)
    named = {9: "t", 10: "n", 13: "r"}.get(code)
    return named or (f"x{code:02x}" if code < 256 else f"u{code:04x}" if code < 65536 else f"U{code:08x}")
