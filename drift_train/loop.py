"""The algorithm of the paper (arXiv 2510.02341, section 3): a warm start, then iterations that learn from user feedback.

    M0   = DPO of the base model on the seed pairs                      warm start
    for k = 1, 2, …
        rollouts = M_(k-1) answers again where users reacted            rollout/
        rewards  = the reward model scores the rollouts                 pairs/, only where samples are ranked
        pairs    = logged and sampled replies, paired by the method     methods/, pairs/
        M_k      = DPO of M_(k-1) on the pairs                          dpo/
        health   = what M_(k-1) said, and how far M_k has moved         analysis/

Every step is a stage of `Workspace.run`: a killed run goes on at the stage that was cut, and a second call makes nothing
again. Imports no torch: a stage imports it when it has something to make.
"""

from __future__ import annotations

from drift_data.workspace import UserError, Workspace, locate_output
from drift_train.analysis.stage import measure_health
from drift_train.dpo.stage import rehearse_iterations, rehearse_warm_start, take_base_model, train_policy
from drift_train.methods.options import LoopOptions
from drift_train.methods.selection import find_usable_examples
from drift_train.models.find import FoundModel, find_model
from drift_train.pairs.stage import check_reward_model, make_pairs, make_seed_pairs, score_rollouts
from drift_train.rollout.stage import sample_rollouts


def warm(workspace: Workspace, run: str, base: str, options: LoopOptions) -> bool:
    """Make M0 in `runs/<run>/iter0/{pairs,model}`: DPO of the base model on the `seed` table.

    Args:
        workspace: needs `seed`, unless `options.warm` is None.
        run: name of the run.
        base: a folder of the workspace ("base"), any other local folder, or a Hub id.
        options: the options of the whole run.

    Returns:
        True when something was made, False when all was there already.
    """
    return _make_m0(workspace, run, find_model(workspace, base), options)


def iterate(workspace: Workspace, run: str, n: int, base: str, options: LoopOptions) -> bool:
    """Make M_n in `runs/<run>/iter<n>/{rollouts,pairs,model,health}`, and what is missing before it.

    `rewards` is made as well where samples are ranked.

    Args:
        workspace: needs the table that the method reads, and `seed` for the warm start.
        run: name of the run.
        n: number of the iteration, from 1.
        base: the base model, as for `warm`.
        options: the options of the whole run.

    Returns:
        True when something was made, False when all was there already.
    """
    if n < 1:
        raise UserError(
            f"Iterations are counted from 1, so there is no iteration {n}. M0 is made by `make warm`."
        )
    is_new = workspace.manifest(locate_output(run, 1, "rollouts")) is None
    if is_new:
        _check_inputs(workspace, options)
    base_model = find_model(workspace, base)  # once: a folder's digest is made of every weight in it
    made = _make_m0(workspace, run, base_model, options)
    if is_new:
        rehearse_iterations(workspace, run, base_model, options)
    for k in range(1, n + 1):
        made |= sample_rollouts(workspace, run, k, options)
        if options.ranking is not None:
            made |= score_rollouts(workspace, run, k, options.ranking)
        made |= make_pairs(workspace, run, k, options)
        made |= train_policy(workspace, run, k, base_model, options.train, options.method)
        if options.health is not None:
            made |= measure_health(workspace, run, k, base_model, options.health)
    return made


def _make_m0(workspace: Workspace, run: str, base: FoundModel, options: LoopOptions) -> bool:
    """Train the base model on the seed pairs, or take it as it is where there are none or too few."""
    if options.warm is None:
        return take_base_model(workspace, run, base, "the recipe has no warm start")
    made = make_seed_pairs(workspace, run, base, options, options.warm)
    count = workspace.require(locate_output(run, 0, "pairs")).rows_out
    if count < options.min_seed_pairs:
        reason = f"{count} seed pairs are fewer than min_seed_pairs {options.min_seed_pairs}"
        return take_base_model(workspace, run, base, reason) or made
    if workspace.manifest(locate_output(run, 0, "model")) is None:
        rehearse_warm_start(workspace, run, base, options.warm)
    return train_policy(workspace, run, 0, base, options.warm, "seed") or made


def _check_inputs(workspace: Workspace, options: LoopOptions) -> None:
    """Check an iteration's inputs before the warm start is trained and hours are spent on sampling.

    Raises:
        UserError: there is no example to learn from, or the reward model does not load as a reward model.
    """
    find_usable_examples(workspace, options)
    if options.ranking is not None:
        check_reward_model(workspace, options.ranking)
