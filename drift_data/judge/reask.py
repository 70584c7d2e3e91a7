"""Finds requests made again: the same message, or nearly the same, after a reply that did not do it.

Compares words, not meaning. The next of a templated series (same words, another payload) is not a request
made again: there both messages have words that the other lacks.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from drift_data.judge.text import COMPARED, ends, words

SAME: Final = "the same request again"
SHORTENED: Final = "the same request again, a few words less"
EXTENDED: Final = "the same request again, a few words more"
AFTER_REFUSAL: Final = "the refused request again in other words"
_STRENGTH = {SAME: 8, SHORTENED: 6, EXTENDED: 3, AFTER_REFUSAL: 6}
# Characters. "yes", "next" said again ask for more; a short answer given again later is the same answer.
_SHORT, _SHORT_LATER = 8, 40
_FEW = 0.15  # share of the words
_LENGTHS = 1.5  # messages are compared when neither is longer than this times the other


def asked_again(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the requests made again.

    Args:
        turns: `at` (number of the turn), `text` and `before` (this and the previous user message), `seen`
            (the same text was sent earlier in the conversation), `refusal` (the reply between is one).

    Returns:
        `at`, `strength`, `how`.
    """
    chars, before = pl.col("text").str.len_chars(), pl.col("before").fill_null("").str.len_chars()
    whole = (chars <= 2 * COMPARED) & (before <= 2 * COMPARED)
    alike = whole & (chars <= _LENGTHS * before) & (before <= _LENGTHS * chars)
    again = pl.col("text").str.strip_chars() == pl.col("before").str.strip_chars()
    compared = turns.select(
        "at",
        "text",
        "before",
        "refusal",
        near=alike,
        same=(again.fill_null(False) & (chars > _SHORT)) | (pl.col("seen") & (chars > _SHORT_LATER)),
    )
    same = compared.filter("same").select("at", how=pl.lit(SAME))
    rest = compared.filter(
        ~pl.col("same") & (pl.col("near") | pl.col("refusal")) & pl.col("before").is_not_null()
    )
    shares = rest.with_columns(
        now=words(ends(pl.col("text"), COMPARED)).list.unique(),
        old=words(ends(pl.col("before"), COMPARED)).list.unique(),
    )
    shared = pl.col("now").list.set_intersection("old").list.len()
    added = 1 - shared / pl.col("now").list.len()
    removed = 1 - shared / pl.col("old").list.len()
    near = pl.col("near") & (pl.col("now").list.len() >= 5)
    how = (
        pl.when(near & (added == 0) & (removed > 0) & (removed <= _FEW))
        .then(pl.lit(SHORTENED))
        .when(pl.col("refusal") & (pl.col("now").list.len() >= 3) & (added < 0.5) & (removed < 0.6))
        .then(pl.lit(AFTER_REFUSAL))
        .when(near & (removed == 0) & (added > 0) & (added <= _FEW))
        .then(pl.lit(EXTENDED))
    )
    found = pl.concat([same, shares.select("at", how=how).drop_nulls("how")])
    return found.with_columns(strength=pl.col("how").replace_strict(_STRENGTH, return_dtype=pl.Int8))
