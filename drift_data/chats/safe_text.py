"""Makes text from logs safe to show: bounded, and without characters that act instead of being seen.

It does not escape for HTML, Markdown or a shell: whoever shows the text does that.
"""

from __future__ import annotations

import unicodedata

# Joiners that scripts and emoji need, and the soft hyphen: they act on their neighbours only.
_HARMLESS = frozenset("\u200c\u200d\u00ad")
# Controls, formats (bidi overrides among them), surrogates, private use, unassigned, line separators
_ACTING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str, limit: int, keep: str = "") -> str:
    r"""Return the first `limit` characters; controls and bidi overrides are spelled out, such as `\x1b`.

    Args:
        text: anything.
        limit: characters of the text that are kept; what is cut is counted at the end.
        keep: control characters that stay, such as a line break.
    """
    shown = "".join(c if c in keep or not _acts(c) else f"\\{_spell(c)}" for c in text[:limit])
    cut = len(text) - limit
    return shown if cut <= 0 else f"{shown}… ({cut:,} more characters)"


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _ACTING and character not in _HARMLESS


def _spell(character: str) -> str:
    code = ord(character)
    named = {9: "t", 10: "n", 13: "r"}.get(code)
    return named or (f"x{code:02x}" if code < 256 else f"u{code:04x}" if code < 65536 else f"U{code:08x}")
