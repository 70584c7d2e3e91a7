"""The demo over several seeds next to two control arms that must show no gain: shuffled labels, learning rate 0.

    python benches/arms.py [SEEDS …] [--work data/arms]

Prints the README's table: gold reward on held-out prompts, mean and standard deviation over the seeds. The control
arms share the seed's logs, labels and base model with the demo.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from drift_data.workspace import Workspace
from pipelines.experiments.controls import shuffle_labels

MODELS = ("base", "iter0", "iter1", "iter2")
SHARED = ("simulated", "conversations", "labels", "base", "dropped")


def drift(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipelines", *arguments], check=True)


def train_and_measure(work: Path, run: str, seed: int, *overrides: str) -> None:
    settings = [word for text in (f"seed={seed}", *overrides) for word in ("--set", text)]
    for stage in ("iter", "eval"):
        drift(stage, "--n", "2", "--run", run, "--work", str(work), "--recipe", "demo", *settings)


def demo(root: Path, seed: int) -> dict[str, float]:
    work = root / f"seed{seed}"
    drift("demo", "--work", str(work), "--seed", str(seed))
    return rewards(work, "demo-drift")


def learning_rate_zero(root: Path, seed: int) -> dict[str, float]:
    work = root / f"seed{seed}"
    train_and_measure(work, "lr0", seed, "loop.train.learning_rate=0", "loop.warm.learning_rate=0")
    return rewards(work, "lr0")


def shuffled_labels(root: Path, seed: int) -> dict[str, float]:
    work = root / f"seed{seed}-shuffled"
    for name in SHARED:
        if (root / f"seed{seed}" / name).exists() and not (work / name).exists():
            shutil.copytree(root / f"seed{seed}" / name, work / name)
    shuffle_labels(Workspace(work), "labels/local", seed)
    drift(
        "seed",
        "--labels",
        "labels/shuffled",
        "--work",
        str(work),
        "--recipe",
        "demo",
        "--set",
        f"seed={seed}",
    )
    train_and_measure(work, "shuffled", seed)
    return rewards(work, "shuffled")


def rewards(work: Path, run: str) -> dict[str, float]:
    workspace = Workspace(work)
    return {model: workspace.require(f"runs/{run}/{model}/eval").results["gold"]["mean"] for model in MODELS}


ARMS = {"DRIFT": demo, "shuffled labels": shuffled_labels, "learning rate 0": learning_rate_zero}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=Path("data/arms"))
    options = parser.parse_args()
    results = {arm: [make(options.work, seed) for seed in options.seeds] for arm, make in ARMS.items()}
    print(f"\nGold reward on held-out prompts at T = 1, mean ± s.d. over seeds {options.seeds}\n")
    print("| arm | base | M0 | M1 | M2 | M2 − base, seed by seed |\n|---|---|---|---|---|---|")
    for arm, rows in results.items():
        cells = [spread([row[model] for row in rows]) for model in MODELS]
        gains = ", ".join(f"{row['iter2'] - row['base']:+.3f}" for row in rows)
        print(f"| {arm} | {' | '.join(cells)} | {gains} |")


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    main()
