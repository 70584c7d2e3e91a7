"""Measures a model of a run on held-out prompts or pairs. Does not import torch before something is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from drift_data.workspace import Output, Workspace, locate_output
from drift_train.models.find import find_model
from drift_train.models.render import Messages
from drift_train.options import EvalOptions


def evaluate_samples(
    workspace: Workspace,
    run: str,
    label: str,
    model: str,
    prompts: str,
    score: Callable[[Messages, str], float],
    measure: str,
    options: EvalOptions,
) -> bool:
    """Make `runs/<run>/<label>/eval`: replies to held-out prompts, with their scores.

    Args:
        workspace: holds the prompts.
        run: name of the run.
        label: name of the model in this run: "base", "iter0", "iter1", …
        model: a folder of the workspace ("base", "runs/<run>/iter1/model"), another folder, or a Hub id.
        prompts: a table of the workspace with `conversation_id` and `messages`; the last message is a user's.
        score: returns a number for (messages, completion); higher is better.
        measure: name of the score, e.g. "gold". The manifest records it in place of the function.
        options: engine and sampling.

    Returns:
        True when it ran, False when everything was there already. The manifest's results hold {measure:
        {"mean", "stderr", "n"}, "mean_tokens", "length_stops"}. n counts prompts: the samples of one prompt are
        averaged first, so that they do not pass for several prompts.
    """
    name = locate_output(run, label, "eval")
    policy = find_model(workspace, model)

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.evaluate.gold import write_scores

        title = f"{run} {label} eval"
        write_scores(outputs[name], workspace, policy, prompts, score, measure, options, title)

    return workspace.run(
        "eval",
        [name],
        build,
        options={"measure": measure, "label": label, **options.identity()},
        inputs=[prompts, *policy.inputs],
        files=policy.files,
    )


def evaluate_heldout(
    workspace: Workspace,
    run: str,
    label: str,
    model: str,
    base: str,
    beta: float = 0.1,
    max_length: int = 2048,
) -> bool:
    """Make `runs/<run>/<label>/heldout`: a model's margins against the base on the test split of `seed`.

    margin = β · [log π(chosen)/π_base(chosen) − log π(rejected)/π_base(rejected)].

    Args:
        workspace: needs `seed`.
        run: name of the run.
        label: name of the model in this run: "iter0", "iter1", …
        model: a folder of the workspace, another folder, or a Hub id.
        base: the model that margins are measured against, given as `model` is.
        beta: weight of the log-ratios, as in training.
        max_length: tokens of prompt and reply; longer pairs are dropped.

    Returns:
        True when it ran, False when everything was there already. The manifest's results hold {"margin": {"mean",
        "stderr", "n"}, "accuracy": {…}}; accuracy is the share of margins above 0.

    Raises:
        UserError: all rows of `seed` have the split "train".
    """
    name = locate_output(run, label, "heldout")
    policy, reference = find_model(workspace, model), find_model(workspace, base)

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.evaluate.heldout import write_margins

        title = f"{run} {label} held-out"
        write_margins(outputs[name], workspace, policy.path, reference.path, beta, max_length, title)

    return workspace.run(
        "eval",
        [name],
        build,
        options={"beta": beta, "max_length": max_length},
        inputs=list(dict.fromkeys(["seed", *policy.inputs, *reference.inputs])),
        files={**policy.files, **reference.files},
    )
