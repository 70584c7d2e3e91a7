import pytest

from drift_data.calibrate.agreement import measure_agreement
from drift_data.schema import LABEL_ROWS
from drift_data.workspace import UserError, Workspace


def table(workspace, name, labels):
    rows = [
        {
            "conversation_id": i,
            "turn": t,
            "label": label,
            "sat_score": 0,
            "dsat_score": 0,
            "judge": "j",
            "rubric": "r",
        }
        for (i, t), label in labels
    ]
    workspace.run(
        "x", [name], lambda build: build[name].table(LABEL_ROWS).write_rows(rows), options={"n": name}
    )


def test_figures_of_a_small_table_worked_out_by_hand(tmp_path):
    workspace = Workspace(tmp_path)
    truth = ["DSAT"] * 4 + ["SAT"] * 2 + ["NEUTRAL"] * 4
    given = ["DSAT", "DSAT", "DSAT", "NEUTRAL", "SAT", "NEUTRAL", "NEUTRAL", "NEUTRAL", "NEUTRAL", "DSAT"]
    keys = [("c", 2 * i) for i in range(10)]
    table(workspace, "labels/a", [*reversed(list(zip(keys, given, strict=True))), (("only", 2), "SAT")])
    table(
        workspace, "simulated/truth", [*zip(keys, truth, strict=True), (("x", 2), "SAT"), (("x", 4), "SAT")]
    )
    found = measure_agreement(workspace, "labels/a", "simulated/truth")
    assert (found.turns, found.only_labels, found.only_truth) == (10, 1, 2)
    assert found.confusion["DSAT"] == {"SAT": 0, "DSAT": 3, "NEUTRAL": 1}
    assert found.confusion["NEUTRAL"] == {"SAT": 0, "DSAT": 1, "NEUTRAL": 3}
    dsat = found.scores["DSAT"]
    assert (dsat.right, dsat.labelled, dsat.true) == (3, 4, 4)
    assert (dsat.precision, dsat.recall, dsat.f1) == (0.75, 0.75, 0.75)
    assert found.scores["SAT"].precision == 1 and found.scores["SAT"].recall == 0.5
    assert found.accuracy == pytest.approx(0.7)
    # chance: (4·4 + 2·1 + 4·5) / 100 = 0.38 → (0.7 − 0.38) / 0.62
    assert found.kappa == pytest.approx(0.32 / 0.62)
    # DSAT against the rest: observed 0.8, chance (4·4 + 6·6) / 100 = 0.52
    assert found.kappa_dsat == pytest.approx(0.28 / 0.48)


def test_nothing_to_divide_by_is_none_and_not_zero(tmp_path):
    workspace = Workspace(tmp_path)
    table(workspace, "labels/a", [(("a", 2), "NEUTRAL")])
    table(workspace, "labels/b", [(("b", 2), "NEUTRAL")])
    found = measure_agreement(workspace, "labels/a", "labels/b")
    assert (found.turns, found.accuracy, found.kappa, found.scores["DSAT"].precision) == (0, None, None, None)
    found = measure_agreement(workspace, "labels/a", "labels/a")
    assert (found.accuracy, found.kappa) == (1.0, None)


def test_two_labels_for_one_turn_are_an_error(tmp_path):
    workspace = Workspace(tmp_path)
    table(workspace, "labels/a", [(("a", 2), "NEUTRAL"), (("a", 2), "SAT")])
    with pytest.raises(UserError, match="two labels for one turn"):
        measure_agreement(workspace, "labels/a", "labels/a")
