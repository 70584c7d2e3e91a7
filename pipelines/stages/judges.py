"""Which judge labels: makes it from the recipe, with its store, its prices and its budget."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from drift_data.judge.base import Judge
from drift_data.judge.cascade import CascadeJudge
from drift_data.judge.dataset import DatasetJudge
from drift_data.judge.local import LocalJudge
from drift_data.judge.local.model import DISTILLED, load_model
from drift_data.judge.local.options import MODEL_FILE
from drift_data.judge.options import LabelOptions
from drift_data.judge.rubric import load_rubric
from drift_data.judge.spur.judge import LLMJudge
from drift_data.llm.backend import Backend
from drift_data.llm.cost import FREE, Meter, Price
from drift_data.llm.request import Sampling
from drift_data.llm.store import FILE as STORE
from drift_data.llm.store import Store
from drift_data.llm.tokens import TokenCounter, token_counter
from drift_data.workspace import UserError, Workspace

P = ParamSpec("P")

BATCH_FOLDER = "batch"  # request and result files of the Batch API


@dataclass(frozen=True)
class Asking:
    """What asks a language model needs: the store, the count of tokens and money, and the way there."""

    backend: Backend
    sampling: Sampling
    store: Store
    meter: Meter
    counter: TokenCounter
    price: Price


@contextmanager
def asking(workspace: Workspace, options: LabelOptions, kind: str) -> Iterator[Asking]:
    """Open the store of a workspace and a way to the recipe's model.

    Args:
        workspace: holds the store.
        options: of the recipe.
        kind: "openai", "vllm" or "batch".

    Raises:
        UserError: no model is named, or a budget is set without a price.
    """
    if options.model is None:
        raise UserError(
            f"JUDGE={options.judge} needs MODEL=, e.g. MODEL=gpt-4o-mini, or the model's name on the server of BASE_URL=."
        )
    sampling = Sampling(model=options.model, **options.sampling.model_dump())
    price = options.prices.get(options.model, FREE)
    if options.budget is not None and price == FREE:
        raise UserError(
            f"BUDGET={options.budget:g} says nothing without the price of {options.model}. Put it into the recipe, "
            f"per million tokens: label: {{prices: {{{options.model}: {{input: …, output: …}}}}}}."
        )
    at_openai = kind != "vllm" and options.server.at_openai
    tokenizer = options.tokenizer or (options.model if kind == "vllm" else None)
    counter = token_counter(options.model, tokenizer, openai=at_openai)
    meter = Meter(price, options.budget, counter.count, batch=kind == "batch")
    with ExitStack() as stack:
        store = stack.enter_context(Store(workspace.root / STORE))
        backend = _backend(workspace.root, kind, store, meter, options)
        stack.callback(backend.close)
        yield Asking(backend, sampling, store, meter, counter, price)


def once(say: Callable[P, None]) -> Callable[P, None]:
    """Return what does the same, but only the first time: the passes of a batch run are one piece of work."""
    done = False

    def first(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal done
        if not done:
            say(*args, **kwargs)
        done = True

    return first


def say_if_unknown(asked: Asking, options: LabelOptions) -> None:
    """Print that what a model of some server costs is not known, where nobody has said it."""
    if asked.price == FREE and options.asks != "vllm":
        print(f"price unknown: no label.prices for {options.model}")


def _backend(root: Path, kind: str, store: Store, meter: Meter, options: LabelOptions) -> Backend:
    if kind == "vllm":
        from drift_data.llm.vllm import InProcess

        return InProcess(store, meter, options.vllm)
    if kind == "batch":
        from drift_data.llm.batch.backend import BatchFiles

        return BatchFiles(store, meter, root / BATCH_FOLDER, options.server, options.batch)
    from drift_data.llm.live.client import Client

    return Client(store, meter, options.server, options.client)


def embedded_judge(workspace: Workspace, options: LabelOptions) -> Judge:
    """Return a judge that asks nobody: "local" or "dataset"."""
    return local_judge(workspace, options) if options.judge == "local" else DatasetJudge(workspace)


def local_judge(workspace: Workspace, options: LabelOptions) -> LocalJudge:
    """Return the local judge with the recipe's classifier.

    Raises:
        UserError: there is no such classifier.
    """
    path = options.classifier
    if path is not None and path.name == str(path) and path.suffix != ".npz":  # a bare name
        path = workspace.path(DISTILLED) / path / MODEL_FILE
    return LocalJudge(None if path is None else load_model(path))


def llm_judge(workspace: Workspace, asked: Asking, options: LabelOptions) -> LLMJudge | CascadeJudge:
    """Return the judge that asks by the recipe's rubric: about all turns, or about those the local one is unsure of."""
    rubric = load_rubric(options.rubric)
    llm = LLMJudge(asked.backend, asked.sampling, rubric, options.score)
    return (
        CascadeJudge(local_judge(workspace, options), llm, options.cascade)
        if options.judge == "cascade"
        else llm
    )
