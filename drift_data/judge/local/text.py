"""Text as the embedded judge compares it: folded case and marks, words apart, hostile lengths cut.

Everything here is a Polars expression over a column of raw messages, linear in what it reads.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

import polars as pl

HEAD_TAIL: Final = 400  # characters at each end that are searched for cues: praise and complaint stand there
COMPARED: Final = 2_000  # characters at each end that are compared with earlier messages

SENTENCE: Final = "\x01"
START: Final = "\x02"
END: Final = "\x03"
_KEPT: Final = rf"\p{{L}}\p{{N}}\p{{So}}{SENTENCE}"  # inside of [ ]
# Scripts written without spaces between words: a cue may stand anywhere in them.
UNSPACED: Final = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{So}]"


def ends(text: pl.Expr, characters: int) -> pl.Expr:
    """Return the first and last characters of each text, or all of it where it is shorter."""
    short = text.str.len_chars() <= 2 * characters
    cut = pl.concat_str(text.str.head(characters), pl.lit("\n"), text.str.tail(characters))
    return pl.when(short).then(text).otherwise(cut)


def folded(text: pl.Expr) -> pl.Expr:
    """Return text in lower case without accents, apostrophes and punctuation; sentence ends are marked."""
    return (
        text.str.to_lowercase()
        .str.normalize("NFKD")
        .str.replace_all(r"[\p{M}'’`´]+", "")
        .str.replace_all(r"[.!?;\n。！？；…؟।]+", SENTENCE)
        .str.replace_all(rf"[^{_KEPT} ][^{_KEPT}]*| [^{_KEPT}]+", " ")  # a single space stays: most are
        .str.replace_all(rf" ?{SENTENCE}[ {SENTENCE}]*", f" {SENTENCE} ")
    )


def searchable(text: pl.Expr) -> pl.Expr:
    """Return what patterns are looked for in: the folded ends of a message, its start and end marked."""
    body = folded(ends(text, HEAD_TAIL)).str.strip_chars(f" {SENTENCE}")
    return pl.concat_str(pl.lit(f"{START} {SENTENCE} "), body, pl.lit(f" {SENTENCE} {END}"))


def may_hold(text: pl.Expr, wanted: Sequence[str]) -> pl.Expr:
    """Return False where `searchable` text certainly holds none of the patterns, at a fifth of its cost.

    Folding ASCII text only lowers it, drops apostrophes and cuts it into words: the words of a pattern that is found
    there follow one another in the raw text too. Other text is always True.
    """
    ascii_only = text.str.len_bytes() == text.str.len_chars()
    runs = {" ".join(["", *re.findall("[a-z0-9]+", pattern), ""]) for pattern in wanted if pattern.isascii()}
    apart = pl.concat_str(pl.lit(" "), text.str.to_lowercase(), pl.lit(" "))
    plain = apart.str.replace_many(["'", "`"], ["", ""]).str.replace_all(
        "[^a-z0-9 ][^a-z0-9]*| [^a-z0-9]+", " "
    )
    return ~ascii_only | plain.str.contains_any(sorted(runs))


def words(text: pl.Expr) -> pl.Expr:
    """Return each text's list of words; in scripts without spaces every character is one."""
    spaced = folded(text).str.replace_all(SENTENCE, " ").str.replace_all(f"({UNSPACED})", " $1 ")
    return spaced.str.strip_chars(" ").str.replace_all(" +", " ").str.split(" ")


def patterns(cues: Sequence[str]) -> pl.DataFrame:
    """Return the literal strings that cues stand for in `searchable` text: `cue` (position) and `pattern`.

    `{a,b}` stands for a or b (an empty alternative is allowed), `^` for the start of the message, `|` for the
    start of a sentence, `$` for the end of the message. Elsewhere a cue matches whole words.

    Raises:
        ValueError: a cue has no words.
    """
    found = [(at, text) for at, cue in enumerate(cues) for text in _alternatives(cue)]
    frame = pl.DataFrame(found, schema={"cue": pl.Int64, "text": pl.String}, orient="row")
    text = pl.col("text").str.strip_chars()
    body = folded(text.str.strip_prefix("^").str.strip_prefix("|").str.strip_suffix("$"))
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


def _alternatives(cue: str) -> list[str]:
    parts = [part.split(",") if at % 2 else [part] for at, part in enumerate(re.split(r"\{([^{}]*)\}", cue))]
    return ["".join(choice) for choice in itertools.product(*parts)]
