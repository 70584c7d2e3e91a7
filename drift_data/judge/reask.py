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


def asked_again(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the requests made again.

    Args:
        turns: `at` (number of the turn), `text` and `before` (this and the previous user message), `seen`
            (the same text was sent earlier in the conversation), `refusal` (the reply between is one).

    Returns:
        `at`, `strength`, `how`.
    """
    compared = turns.select(
        "at",
        "refusal",
        "seen",
        same=(pl.col("text").str.strip_chars() == pl.col("before").str.strip_chars()).fill_null(False),
        chars=pl.col("text").str.len_chars(),
        whole=(pl.col("text").str.len_chars() <= 2 * COMPARED)
        & (pl.col("before").str.len_chars() <= 2 * COMPARED),
        now=words(ends(pl.col("text"), COMPARED)).list.unique(),
        old=words(ends(pl.col("before").fill_null(""), COMPARED)).list.unique(),
    )
    shared = pl.col("now").list.set_intersection("old").list.len()
    added = 1 - shared / pl.col("now").list.len()
    removed = 1 - shared / pl.col("old").list.len()
    near = pl.col("whole").fill_null(False) & (pl.col("now").list.len() >= 5)
    how = (
        pl.when(
            pl.col("same") & (pl.col("chars") > _SHORT) | pl.col("seen") & (pl.col("chars") > _SHORT_LATER)
        )
        .then(pl.lit(SAME))
        .when(near & (added == 0) & (removed > 0) & (removed <= _FEW))
        .then(pl.lit(SHORTENED))
        .when(pl.col("refusal") & (pl.col("now").list.len() >= 3) & (added < 0.5) & (removed < 0.6))
        .then(pl.lit(AFTER_REFUSAL))
        .when(near & (removed == 0) & (added > 0) & (added <= _FEW))
        .then(pl.lit(EXTENDED))
    )
    found = compared.select("at", how=how).drop_nulls("how")
    return found.with_columns(strength=pl.col("how").replace_strict(_STRENGTH, return_dtype=pl.Int8))
