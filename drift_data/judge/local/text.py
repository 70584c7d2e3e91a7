"""Prepares messages for the search for cues: long ones are cut, and case, accents and punctuation are folded.

The functions build Polars expressions over a column of raw messages. Their cost is linear in the text that they read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

import polars as pl

SEARCHED_CHARACTERS: Final = 400  # characters at each end of a message, where praise and complaints stand

# Marks in searchable text.
SENTENCE: Final = "\x01"  # the end of a sentence
START: Final = "\x02"  # the start of the message
END: Final = "\x03"  # the end of the message
# Characters that folding keeps, written for use inside of [ ].
_KEPT_CHARACTERS: Final = rf"\p{{L}}\p{{N}}\p{{So}}{SENTENCE}"
# Scripts that are written without spaces between words: there a cue may begin and end anywhere.
UNSPACED: Final = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{So}]"


def cut_to_ends(text: pl.Expr, characters: int) -> pl.Expr:
    """Return the first and the last `characters` of each text; a text of at most twice as many stays whole."""
    short = text.str.len_chars() <= 2 * characters
    cut = pl.concat_str(text.str.head(characters), pl.lit("\n"), text.str.tail(characters))
    return pl.when(short).then(text).otherwise(cut)


def fold(text: pl.Expr) -> pl.Expr:
    """Return text in lower case without accents, apostrophes and punctuation, with its sentence ends marked."""
    return (
        text.str.to_lowercase()
        .str.normalize("NFKD")
        .str.replace_all(r"[\p{M}'’`´]+", "")
        .str.replace_all(r"[.!?;\n。！？；…؟।]+", SENTENCE)
        # The pattern skips a single space between words, because most separators are a single space already.
        .str.replace_all(rf"[^{_KEPT_CHARACTERS} ][^{_KEPT_CHARACTERS}]*| [^{_KEPT_CHARACTERS}]+", " ")
        .str.replace_all(rf" ?{SENTENCE}[ {SENTENCE}]*", f" {SENTENCE} ")
    )


def mark_searchable(text: pl.Expr) -> pl.Expr:
    """Return the text that patterns are searched in: both ends of the message, folded, with start and end marked."""
    body = fold(cut_to_ends(text, SEARCHED_CHARACTERS)).str.strip_chars(f" {SENTENCE}")
    return pl.concat_str(pl.lit(f"{START} {SENTENCE} "), body, pl.lit(f" {SENTENCE} {END}"))


def may_hold(text: pl.Expr, wanted: Sequence[str]) -> pl.Expr:
    """Return False where a text surely holds none of the patterns, at a fifth of the cost of a search.

    Folding only lowers ASCII text, drops its apostrophes and cuts it into words. So the words of a pattern that occurs
    in the folded text also follow one another in the raw text. Text that is not ASCII always gives True.

    Args:
        text: raw messages.
        wanted: patterns from `expand_cues`.
    """
    ascii_only = text.str.len_bytes() == text.str.len_chars()
    runs = {" ".join(["", *re.findall("[a-z0-9]+", pattern), ""]) for pattern in wanted if pattern.isascii()}
    apart = pl.concat_str(pl.lit(" "), text.str.to_lowercase(), pl.lit(" "))
    plain = apart.str.replace_many(["'", "`"], ["", ""]).str.replace_all(
        "[^a-z0-9 ][^a-z0-9]*| [^a-z0-9]+", " "
    )
    return ~ascii_only | plain.str.contains_any(sorted(runs))


def expand_cues(cues: Sequence[str]) -> pl.DataFrame:
    """Return the literal strings that cues stand for in the text that `mark_searchable` returns.

    `{a,b}` stands for a or b (an empty alternative is allowed), `^` for the start of the message, `|` for the
    start of a sentence, `$` for the end of the message. Elsewhere a cue matches whole words.

    Returns:
        `cue` (position in `cues`) and `pattern`, without repeats.

    Raises:
        ValueError: a cue has no words.
    """
    found = [(at, text) for at, cue in enumerate(cues) for text in _expand_alternatives(cue)]
    frame = pl.DataFrame(found, schema={"cue": pl.Int64, "text": pl.String}, orient="row")
    text = pl.col("text").str.strip_chars()
    body = fold(text.str.strip_prefix("^").str.strip_prefix("|").str.strip_suffix("$"))
    body = body.str.replace_all(SENTENCE, " ").str.replace_all(" +", " ").str.strip_chars(" ")
    edge = pl.when(body.str.contains(UNSPACED)).then(pl.lit("")).otherwise(pl.lit(" "))
    before = (
        pl.when(text.str.starts_with("^"))
        .then(pl.lit(f"{START} {SENTENCE} "))
        .when(text.str.starts_with("|"))
        .then(pl.lit(f"{SENTENCE} "))
        .otherwise(edge)
    )
    after = pl.when(text.str.ends_with("$")).then(pl.lit(f" {SENTENCE} {END}")).otherwise(edge)
    frame = frame.select("cue", body=body, pattern=pl.concat_str(before, body, after))
    empty = frame.filter(pl.col("body") == "")["cue"].to_list()
    if empty:
        raise ValueError(f"the cue {cues[empty[0]]!r} has no words")
    return frame.select("cue", "pattern").unique(maintain_order=True)


def _expand_alternatives(cue: str) -> list[str]:
    """Return every text that a cue with `{a,b}` stands for."""
    parts = [part.split(",") if at % 2 else [part] for at, part in enumerate(re.split(r"\{([^{}]*)\}", cue))]
    return ["".join(choice) for choice in itertools.product(*parts)]
