"""Reads the phrases of `cues.yaml`, which show satisfaction or dissatisfaction, and finds them in columns of text."""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.resources import files
from typing import Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field

from drift_data.judge.local.text import expand_cues, mark_searchable, may_hold

CUES_FILE = "cues.yaml"
_REFUSAL_CHARACTERS = 300  # characters at the beginning of a reply, where a refusal shows


class CueSign(BaseModel):
    """Phrases that show one item of the rubric, and the messages in which they count."""

    model_config = ConfigDict(extra="forbid")

    item: str
    polarity: Literal["SAT", "DSAT"]
    strength: int = Field(ge=1, le=10)
    cues: list[str] = Field(min_length=1)
    max_chars: int = Field(gt=0)  # longest user message in which the phrases count, in characters
    after: Literal["code", "refusal"] | None = None  # what the judged reply has to contain or be


class Cues(BaseModel):
    """The contents of `cues.yaml`."""

    model_config = ConfigDict(extra="forbid")

    version: int
    refusal: list[str]
    signs: list[CueSign]

    @cached_property
    def hash(self) -> str:
        """Return 12 hex digits of a hash of the whole file."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @cached_property
    def _pattern_table(self) -> pl.DataFrame:
        """Return one row for each pattern: `pattern`, `item`, `polarity`, `strength`, `max_chars`, `after`."""
        signs = pl.DataFrame(
            [sign.model_dump(exclude={"cues"}) | {"sign": at} for at, sign in enumerate(self.signs)],
            schema_overrides={"after": pl.String, "strength": pl.Int8},
        )
        texts = [(cue, at) for at, sign in enumerate(self.signs) for cue in sign.cues]
        owner = pl.DataFrame({"cue": range(len(texts)), "sign": [at for _, at in texts]})
        return expand_cues([cue for cue, _ in texts]).join(owner, on="cue").join(signs, on="sign")

    @cached_property
    def _refusal_patterns(self) -> list[str]:
        return expand_cues(self.refusal)["pattern"].to_list()

    def find_refusals(self, replies: pl.Series) -> pl.Series:
        """Return for each reply whether it opens like a refusal."""
        text = pl.col("text")
        opening = pl.DataFrame({"text": replies.str.head(_REFUSAL_CHARACTERS)}).with_row_index()
        likely = opening.filter(may_hold(text, self._refusal_patterns))
        found = likely.filter(mark_searchable(text).str.contains_any(self._refusal_patterns))["index"]
        return opening["index"].is_in(found)

    def find_signs(self, turns: pl.DataFrame, polarity: Literal["SAT", "DSAT"]) -> pl.DataFrame:
        """Return the signs found in each turn; an item is returned once a turn, with its strongest phrase.

        Args:
            turns: `at` (number of the turn), `text` (the user's message), `code`, `refusal` (of the reply).
            polarity: polarity of the items that are searched for.

        Returns:
            `at`, `item`, `strength`, `phrase`; the rows of a turn go from strong to weak.
        """
        table = self._pattern_table.filter(polarity=polarity)
        wanted = table["pattern"].unique().to_list()
        short = turns.filter(pl.col("text").str.len_chars() <= table["max_chars"].max())
        found = short.filter(may_hold(pl.col("text"), wanted)).select(
            "at",
            "code",
            "refusal",
            chars=pl.col("text").str.len_chars(),
            pattern=mark_searchable(pl.col("text")).str.extract_many(wanted, overlapping=True),
        )
        hits = found.explode("pattern").drop_nulls("pattern").join(table, on="pattern")
        reply_fits = (
            pl.when(pl.col("after") == "code")
            .then("code")
            .when(pl.col("after") == "refusal")
            .then("refusal")
            .otherwise(pl.lit(True))
        )
        return (
            hits.filter(pl.col("chars") <= pl.col("max_chars"), reply_fits)
            .sort("at", "strength", "item", "pattern", descending=[False, True, False, False])
            .unique(["at", "item"], keep="first", maintain_order=True)
            .select("at", "item", "strength", phrase="pattern")
        )


def load_cues() -> Cues:
    """Read the phrases that ship with the package."""
    return Cues.model_validate(yaml.safe_load((files(__package__) / CUES_FILE).read_text(encoding="utf-8")))
