"""The figures of the embedded judge in docs/results/label-quality.md, on the third of the real conversations that it was not trained on.

Printed with `-s`, with 95 % intervals clustered by conversation. The bounds are alarms, not claims, and nothing may
be chosen by these figures.
"""

import polars as pl
import pytest

from drift_data.calibrate.summary import Comparison, compare_labels
from drift_data.calibrate.thresholds import decide_labels
from drift_data.distill.comparisons import PHRASES_TITLE, SHIPPED_TITLE, add_scores, label_by_baselines
from drift_data.distill.examples import load_taught_turns
from drift_data.distill.teacher import read_teacher
from drift_data.distill.thresholds import find_operating_points
from drift_data.judge.local.model import load_classifier
from drift_data.judge.options import Band, Thresholds
from drift_data.judge.rubric import load_rubric
from tests.helpers.converted import converted
from tests.helpers.real_chats import GOLD, LOGS, annotations, needs_data

pytestmark = [pytest.mark.real, needs_data]
CHANGE = load_rubric().change_items
USUAL = "NEUTRAL"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The annotated turns of the held-out third that `convert` keeps, with the scores of the shipped classifier."""
    workspace = converted(tmp_path_factory.mktemp("real"), "wildchat", LOGS)
    found = load_taught_turns(workspace, read_teacher(workspace, None, str(GOLD)).rows, 3, load_classifier())
    assert found is not None
    held = found.rows.filter("held_out")
    return add_scores(held, held["shipped"], held["shipped_item"], CHANGE)


def shown(found: Comparison) -> Comparison:
    print(f"\n{found.title}: {found.turns} turns of {found.conversations} conversations")
    for label in found.true:
        print(f"  {label}: given {found.given[label]}, annotated {found.true[label]}")
    for name, figure in found.figures.items():
        if figure.value is not None:
            interval = "" if figure.low is None else f" ({figure.low:.3f}–{figure.high:.3f})"
            print(f"  {name} {figure.value:.3f}{interval}")
    return found


def test_the_shipped_classifier_is_worth_more_than_phrases_and_one_label_for_all(rows: pl.DataFrame) -> None:
    labels = label_by_baselines(rows, Thresholds(), CHANGE, USUAL)
    found = {name: shown(compare_labels(name, rows, given, 0)) for name, given in labels.items()}
    kappa = {name: each.figures["kappa_dsat"].value for name, each in found.items()}
    assert (found[SHIPPED_TITLE].turns, found[SHIPPED_TITLE].true["DSAT"]) == (383, 69)
    assert kappa[SHIPPED_TITLE] > kappa[PHRASES_TITLE] > kappa[f"all {USUAL}"] == 0
    assert kappa[SHIPPED_TITLE] > 0.15 and found[SHIPPED_TITLE].figures["precision_DSAT"].value > 0.4


def test_recall_at_a_precision(rows: pl.DataFrame) -> None:
    found = find_operating_points(rows, Thresholds(), 0)
    for row in found:
        print(row)
    recalls = [row.recall.value for row in found if row.recall is not None]
    assert recalls and recalls == sorted(recalls, reverse=True)


def test_a_cascade_can_only_mend_what_the_classifier_doubts(rows: pl.DataFrame) -> None:
    band, score = Band(), pl.col("dsat_score")
    asked = (score >= band.low) & (score < band.high)
    uncertain, certain = rows.filter(asked), rows.filter(score < band.low)
    missed = certain.filter(gold_label="DSAT").height
    perfect = pl.when(asked).then("gold_label").otherwise(decide_labels(Thresholds()))
    found = shown(compare_labels("with a model without errors", rows, rows.select(perfect).to_series(), 0))
    print(
        f"asked: {uncertain.height} of {rows.height} turns, {uncertain['conversation_id'].n_unique()} of "
        f"{rows['conversation_id'].n_unique()} conversations; {missed} of {found.true['DSAT']} DSAT turns score below "
        f"{band.low:g}"
    )
    assert found.figures["recall_DSAT"].value <= 1 - missed / found.true["DSAT"]
    assert found.figures["kappa_dsat"].value > 0.4


def test_the_weak_complaints_are_those_that_are_missed_most(rows: pl.DataFrame) -> None:
    strengths = {key: int(row["strength"]) for key, row in annotations().items()}
    found: dict[int, list[bool]] = {}
    columns = rows.filter(gold_label="DSAT").select("conversation_id", "turn", "dsat_score")
    for conversation, turn, score in columns.iter_rows():
        found.setdefault(strengths[conversation, turn], []).append(score >= Thresholds().dsat)
    for strength, each in sorted(found.items()):
        print(f"strength {strength}: {sum(each)} of {len(each)} found")
    assert sum(map(len, found.values())) == 69 and sum(found[3]) / len(found[3]) > sum(found[1]) / len(
        found[1]
    )
