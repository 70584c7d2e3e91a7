"""Makes the preference pairs of the warm start and of an iteration, with the rewards that rank samples.

Imports no torch before something has to be made.
"""

from __future__ import annotations

from collections.abc import Mapping

from drift_data.workspace import Output, Workspace, locate_output, name_model
from drift_train.methods.options import LoopOptions
from drift_train.models.find import FoundModel, find_model
from drift_train.options import RewardOptions, TrainOptions
from drift_train.pairs.candidates import ROLLOUT_COLUMNS, make_rollout_candidates, make_seed_candidates
from drift_train.pairs.filters import PairFilter
from drift_train.pairs.write import write_pairs

_SCORED_AT_ONCE = 256  # replies whose rewards are computed together


def make_seed_pairs(
    workspace: Workspace, run: str, base: FoundModel, options: LoopOptions, training: TrainOptions
) -> bool:
    """Make `runs/<run>/iter0/pairs`, the pairs of the warm start: two logged replies of the `seed` table each.

    Args:
        workspace: holds `seed`.
        run: name of the run.
        base: the base model, whose tokenizer measures the pairs.
        options: the options of the whole run.
        training: options of the warm start's training.

    Returns:
        True when the pairs were made, False when they were there already.
    """
    name = locate_output(run, 0, "pairs")

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.models.load import load_renderer

        keep = PairFilter(load_renderer(base.path), training.max_length, options.pairs.drop_leaks_in_seed)
        candidates = make_seed_candidates(workspace, keep)
        write_pairs(outputs[name], candidates, keep, "seed", "logs", f"{run} iter0 pairs")

    return workspace.run(
        "warm",
        [name],
        build,
        options={"max_length": training.max_length, **options.pairs.model_dump()},
        inputs=["seed", *base.inputs],
        files=base.files,
    )


def check_reward_model(workspace: Workspace, ranking: RewardOptions) -> None:
    """Load the reward model once, so that a wrong one is found before hours are spent on sampling.

    Raises:
        UserError: the model cannot be found, or it is not a reward model.
    """
    from drift_train.pairs.reward import RewardModel

    RewardModel(find_model(workspace, ranking.model, "reward model").path, ranking)


def score_rollouts(workspace: Workspace, run: str, iteration: int, ranking: RewardOptions) -> bool:
    """Make `runs/<run>/iter<k>/rewards`: a number for every rollout of iteration k.

    Args:
        workspace: holds the rollouts.
        run: name of the run.
        iteration: k, from 1.
        ranking: names the reward model.

    Returns:
        True when the rewards were made, False when they were there already.
    """
    name, rollouts = locate_output(run, iteration, "rewards"), locate_output(run, iteration, "rollouts")
    model = find_model(workspace, ranking.model, "reward model")

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.pairs.reward import RewardModel, write_rewards

        output, reward = outputs[name], RewardModel(model.path, ranking)
        batches = workspace.batches(rollouts, ROLLOUT_COLUMNS, _SCORED_AT_ONCE)
        total = workspace.require(rollouts).rows_out
        write_rewards(output, batches, total, reward, f"{run} iter{iteration} rewards")
        output.made_by = {"reward_model": model.name, "max_length": reward.max_length}
        output.results["shortened"] = reward.shortened

    return workspace.run(
        "iter",
        [name],
        build,
        options=ranking.identity(),
        inputs=[rollouts, *model.inputs],
        files=model.files,
    )


def make_pairs(workspace: Workspace, run: str, iteration: int, options: LoopOptions) -> bool:
    """Make `runs/<run>/iter<k>/pairs`: what the method makes of the examples and their rollouts, filtered.

    Args:
        workspace: holds the examples, the rollouts, and the rewards where samples are ranked.
        run: name of the run.
        iteration: k, from 1.
        options: the options of the whole run.

    Returns:
        True when the pairs were made, False when they were there already.
    """
    name, rollouts = locate_output(run, iteration, "pairs"), locate_output(run, iteration, "rollouts")
    rewards = locate_output(run, iteration, "rewards") if options.ranking else None
    # Only the policy's tokenizer is used. The policy is not an input here, because the rollouts, an input, depend on it.
    policy = workspace.path(locate_output(run, iteration - 1, "model"))

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.models.load import load_renderer

        keep = PairFilter(load_renderer(policy), options.train.max_length, options.pairs.drop_leaks)
        write_pairs(
            outputs[name],
            make_rollout_candidates(workspace, rollouts, rewards, options),
            keep,
            options.method,
            name_model(iteration - 1),
            f"{run} iter{iteration} pairs",
        )

    return workspace.run(
        "iter",
        [name],
        build,
        options={
            "method": options.method,
            "guidance": options.is_guided,
            "select": options.rollout.select,
            "max_length": options.train.max_length,
            **options.pairs.model_dump(),
        },
        inputs=[options.examples_table, rollouts, *([rewards] if rewards else [])],
    )
