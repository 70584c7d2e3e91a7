"""Makes the judge that a recipe names; one that asks a language model comes with its store, prices and budget."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from drift_data.judge.base import Judge
from drift_data.judge.cascade import CascadeJudge
from drift_data.judge.dataset import DatasetJudge
from drift_data.judge.local import LocalJudge
from drift_data.judge.local.model import DISTILLED_FOLDER, load_classifier
from drift_data.judge.local.options import MODEL_FILE
from drift_data.judge.options import LabelOptions
from drift_data.judge.rubric import load_rubric
from drift_data.judge.spur.judge import LLMJudge
from drift_data.llm.backend import Backend
from drift_data.llm.cost import FREE, Spending
from drift_data.llm.options import Price
from drift_data.llm.request import Sampling
from drift_data.llm.store import STORE_FILE, Store
from drift_data.llm.tokens import TokenCounter, choose_token_counter
from drift_data.workspace import UserError, Workspace

P = ParamSpec("P")

BATCH_FOLDER = "batch"  # folder of the workspace for request and result files of the Batch API


@dataclass(frozen=True)
class LLMAccess:
    """All that a stage needs to ask a language model."""

    backend: Backend  # sends the requests
    sampling: Sampling  # names the model, and says how it samples
    store: Store  # every request and answer of the workspace
    spending: Spending  # what has been spent, and the budget
    counter: TokenCounter
    price: Price  # per million tokens


@contextmanager
def open_llm(workspace: Workspace, options: LabelOptions, kind: str) -> Iterator[LLMAccess]:
    """Open the store of a workspace and the connection to the recipe's language model.

    Args:
        workspace: holds the store.
        options: the recipe's group `label`.
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
            f"BUDGET={options.budget:g} cannot be kept without the price of {options.model}. Put it into the recipe, "
            f"per million tokens: label: {{prices: {{{options.model}: {{input: …, output: …}}}}}}."
        )
    at_openai = kind != "vllm" and options.server.at_openai
    tokenizer = options.tokenizer or (options.model if kind == "vllm" else None)
    counter = choose_token_counter(options.model, tokenizer, openai=at_openai)
    spending = Spending(price, options.budget, counter.count, batch=kind == "batch")
    with ExitStack() as stack:
        store = stack.enter_context(Store(workspace.root / STORE_FILE))
        backend = _make_backend(workspace.root, kind, store, spending, options)
        stack.callback(backend.close)
        yield LLMAccess(backend, sampling, store, spending, counter, price)


def run_once(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a function so that only its first call has an effect: a batch run makes several passes."""
    has_run = False

    def run_first_time(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal has_run
        if not has_run:
            function(*args, **kwargs)
        has_run = True

    return run_first_time


def print_if_price_unknown(access: LLMAccess, options: LabelOptions) -> None:
    """Print that the recipe has no price for a server's model; vLLM in this process costs no money."""
    if access.price == FREE and options.asks != "vllm":
        print(f"price unknown: no label.prices for {options.model}")


def _make_backend(root: Path, kind: str, store: Store, spending: Spending, options: LabelOptions) -> Backend:
    if kind == "vllm":
        from drift_data.llm.vllm import VllmBackend

        return VllmBackend(store, spending, options.vllm)
    if kind == "batch":
        from drift_data.llm.batch.backend import BatchBackend

        return BatchBackend(store, spending, root / BATCH_FOLDER, options.server, options.batch)
    from drift_data.llm.live.client import Client

    return Client(store, spending, options.server, options.client)


def make_embedded_judge(workspace: Workspace, options: LabelOptions) -> Judge:
    """Return a judge that asks no language model: "local" or "dataset".

    Raises:
        ValueError: the recipe's kind of judge is not made here.
    """
    match options.judge:
        case "local":
            return make_local_judge(workspace, options)
        case "dataset":
            return DatasetJudge(workspace)
        case other:
            raise ValueError(
                f"make_embedded_judge does not make the judge {other!r}. A kind for which LabelOptions.asks is None needs "
                "a case in make_embedded_judge; every other kind is made by make_llm_judge."
            )


def make_local_judge(workspace: Workspace, options: LabelOptions) -> LocalJudge:
    """Return the local judge with the recipe's classifier.

    Raises:
        UserError: there is no such classifier.
    """
    path = options.classifier
    # A word without a folder and without .npz is the name of a distilled classifier.
    if path is not None and path.name == str(path) and path.suffix != ".npz":
        path = workspace.path(DISTILLED_FOLDER) / path / MODEL_FILE
    return LocalJudge(None if path is None else load_classifier(path))


def make_llm_judge(workspace: Workspace, access: LLMAccess, options: LabelOptions) -> LLMJudge | CascadeJudge:
    """Return the judge that asks a language model by the recipe's rubric.

    The judge "cascade" asks about the turns that the local judge is unsure of, any other judge about all turns.
    """
    rubric = load_rubric(options.rubric)
    llm = LLMJudge(access.backend, access.sampling, rubric, options.score)
    if options.judge == "cascade":
        return CascadeJudge(make_local_judge(workspace, options), llm, options.cascade)
    return llm
