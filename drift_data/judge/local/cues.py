"""The embedded judge's phrases: reads the YAML file and finds them in columns of text. Gives no labels."""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.resources import files
from typing import Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field

from drift_data.judge.local.text import may_hold, patterns, searchable

FILE = "cues.yaml"
_REFUSAL_OPENING = 300  # characters of a reply in which a refusal shows itself


class Sign(BaseModel):
    """Phrases that show one item of the rubric, and where they count."""

    model_config = ConfigDict(extra="forbid")

    item: str
    polarity: Literal["SAT", "DSAT"]
    strength: int = Field(ge=1, le=10)
    cues: list[str] = Field(min_length=1)
    max_chars: int = Field(gt=0)  # of the user's message
    after: Literal["code", "refusal"] | None = None  # what the judged reply has to be


class Cues(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    version: int
    refusal: list[str]
    signs: list[Sign]

    @cached_property
    def hash(self) -> str:
        """Return 12 hex digits over everything that is looked for."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @cached_property
    def _table(self) -> pl.DataFrame:
        """Return one row a pattern: `pattern`, `item`, `strength`, `max_chars`, `after`."""
        signs = pl.DataFrame(
            [sign.model_dump(exclude={"cues"}) | {"sign": at} for at, sign in enumerate(self.signs)],
            schema_overrides={"after": pl.String, "strength": pl.Int8},
        )
        texts = [(cue, at) for at, sign in enumerate(self.signs) for cue in sign.cues]
        owner = pl.DataFrame({"cue": range(len(texts)), "sign": [at for _, at in texts]})
        return patterns([cue for cue, _ in texts]).join(owner, on="cue").join(signs, on="sign")

    @cached_property
    def _refusals(self) -> list[str]:
        return patterns(self.refusal)["pattern"].to_list()

    def refusals(self, replies: pl.Series) -> pl.Series:
        """Say of each reply whether it opens like a refusal."""
        text = pl.col("text")
        opening = pl.DataFrame({"text": replies.str.head(_REFUSAL_OPENING)}).with_row_index()
        likely = opening.filter(may_hold(text, self._refusals))
        found = likely.filter(searchable(text).str.contains_any(self._refusals))["index"]
        return opening["index"].is_in(found)

    def signs_in(self, turns: pl.DataFrame, polarity: Literal["SAT", "DSAT"]) -> pl.DataFrame:
        """Return the signs found, each item once a turn and with its strongest phrase.

        Args:
            turns: `at` (number of the turn), `text` (the user's message), `code`, `refusal` (of the reply).
            polarity: of the items that are looked for.

        Returns:
            `at`, `item`, `strength`, `phrase`; the rows of a turn from strong to weak.
        """
        table = self._table.filter(polarity=polarity)
        wanted = table["pattern"].unique().to_list()
        short = turns.filter(pl.col("text").str.len_chars() <= table["max_chars"].max())
        found = short.filter(may_hold(pl.col("text"), wanted)).select(
            "at",
            "code",
            "refusal",
            chars=pl.col("text").str.len_chars(),
            pattern=searchable(pl.col("text")).str.extract_many(wanted, overlapping=True),
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
    return Cues.model_validate(yaml.safe_load((files(__package__) / FILE).read_text(encoding="utf-8")))
