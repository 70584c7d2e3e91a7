"""Names the folders of a training run in a workspace: `runs/<run>/<model>/<what>`.

A run trains the models M0, M1, …; the folder of M_k is called `iter<k>`. The folder `base` beside them holds the
evaluation of the base model, which the run does not train.
"""

RUNS_FOLDER = "runs"


def name_model(k: int) -> str:
    """Return the name of M_k in its run: "iter0" for the warm start, "iter1" for the first iteration, …"""
    return f"iter{k}"


def locate_run(run: str) -> str:
    """Return the name of a run's folder in the workspace."""
    return f"{RUNS_FOLDER}/{run}"


def locate_output(run: str, model: int | str, what: str) -> str:
    """Return the name of one output of a run in the workspace, e.g. "runs/demo-drift/iter1/pairs".

    Args:
        run: name of the run.
        model: k for M_k, or the name of a model, e.g. "base".
        what: the output: "rollouts", "rewards", "pairs", "model", "health", "eval", "metrics.jsonl", …
    """
    name = name_model(model) if isinstance(model, int) else model
    return f"{locate_run(run)}/{name}/{what}"
