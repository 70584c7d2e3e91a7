"""Serves the pages of a review over HTTP: shows a turn, keeps a decision, takes a decision back.

The server makes whole pages, which work without the script. The page sends a decision as a form, and the answer leads
to the next turn. Requests are answered one at a time, because there is one reviewer.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from drift_data.html.environment import make_environment
from drift_data.review.measure import MIN_CONVERSATIONS_FOR_INTERVAL
from drift_data.review.queue import TurnKey
from drift_data.review.security import Gate, read_form
from drift_data.review.selection import ORDER_TITLES, STATE_TITLES, Selection, make_selection
from drift_data.review.session import FormAnswer, ReviewSession, ShownTurn, StaleTurnError
from drift_data.schema import DSAT, LABELS, NEUTRAL, SAT
from drift_data.workspace import UserError

ACCEPT_VALUE: Final = "accept"  # value of the form's field `label` that means the judge's label
# Value of the form's field `refusal` → (text on the page, refusal, correct_refusal).
_REFUSAL_CHOICES: Final = {
    "": ("not said", None, None),
    "no": ("no refusal", False, None),
    "yes": ("a refusal", True, None),
    "deserved": ("a refusal, rightly", True, True),
    "undeserved": ("a refusal, wrongly", True, False),
}
_JUDGE_CHARACTERS: Final = 600  # characters that the page shows of the judge's reason and evidence


class ReviewPages:
    """Answers requests for one session.

    Args:
        session: the reviewer's session.
        start: selection to show first.
    """

    def __init__(self, session: ReviewSession, start: Selection) -> None:
        self.session, self.start = session, start
        self.token = secrets.token_urlsafe(24)
        self._pages = make_environment(_JUDGE_CHARACTERS, "drift_data.review")
        self._pages.filters["key"] = format_key
        self._pages.globals["make_address"] = make_address
        self._template = self._pages.get_template("page.html.jinja")

    def make_app(self, key: str, cookie: str) -> Starlette:
        """Return the application behind its gate; see `Gate` for the arguments."""
        routes = [
            Route("/", self.show),
            Route("/decide", self.decide, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
            Route("/review.css", self.send_style),
            Route("/review.js", self.send_script),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Gate, key=key, cookie=cookie)])

    async def show(self, request: Request) -> Response:
        """Show the turn that the address names, or the first of its selection."""
        given = dict(request.query_params)
        at, saved, undone = (given.pop(name, None) for name in ("at", "saved", "undone"))
        try:
            chosen = make_selection(given, "The address:") if given else self.start
            self.session.refresh()
            number = self._find_turn(at, chosen)
            turn = None if number is None else self.session.load_turn(number, chosen)
        except UserError as error:
            return self._render_trouble(str(error), 503)
        notice = self._describe_last_step(saved, undone, hidden=turn is not None and turn.hidden)
        return self._render_page(chosen, turn, notice, missing=at is not None and turn is None)

    def _find_turn(self, at: str | None, chosen: Selection) -> int | None:
        """Return the number of the turn that an address names by `at`; without `at`, the first of the selection."""
        if at is None:
            return self.session.queue.find_next(chosen, self.session.codes)
        key = parse_key(at)
        return None if key is None else self.session.queue.find_number(*key)

    async def decide(self, request: Request) -> Response:
        """Keep the decision of a form, and lead on to the next turn."""
        form = await self._check_form(request)
        if isinstance(form, Response):
            return form
        answer = _read_answer(form)
        if answer is None:
            return self._render_trouble(
                "The form is not complete. Nothing was saved; load the page again.", 400
            )
        try:
            chosen = make_selection(dict(parse_qsl(form["selection"][0])), "The form:")
            self.session.refresh()
            decision = self.session.decide(answer, chosen)
        except (StaleTurnError, UserError) as error:
            return self._render_trouble(f"Nothing was saved: {error}", 409)
        except (ValueError, KeyError):
            return self._render_trouble(
                "The form is not complete. Nothing was saved; load the page again.", 400
            )
        except OSError as error:
            return self._report_unwritable(error)
        number = self.session.queue.find_number(*answer.key)
        following = self.session.queue.find_next(chosen, self.session.codes, number)
        at = {} if following is None else {"at": format_key(self.session.queue.key(following))}
        return RedirectResponse(make_address(chosen, **at, saved=str(decision.id)), 303)

    async def undo(self, request: Request) -> Response:
        """Take a decision back, and show its turn."""
        form = await self._check_form(request)
        if isinstance(form, Response):
            return form
        try:
            chosen = make_selection(dict(parse_qsl(form["selection"][0])), "The form:")
            self.session.refresh()
            decision = self.session.undo(int(form["decision"][0]))
        except UserError as error:
            return self._render_trouble(str(error), 503)
        except (ValueError, KeyError):
            return self._render_trouble("The form is not complete. Load the page again.", 400)
        except OSError as error:
            return self._report_unwritable(error)
        if decision is None:
            return self._render_trouble(
                "That decision was taken back or changed already, perhaps in another tab.", 409
            )
        return RedirectResponse(make_address(chosen, at=format_key(decision.key), undone=decision.label), 303)

    async def send_style(self, request: Request) -> Response:
        """Return the style sheet: the style of all reports, and what this page adds to it."""
        return Response(
            f"{self._pages.globals['style']}\n{self._read_source('review.css')}", media_type="text/css"
        )

    async def send_script(self, request: Request) -> Response:
        """Return the script that makes the keys work."""
        return Response(self._read_source("review.js"), media_type="text/javascript")

    def _read_source(self, name: str) -> str:
        """Return the text of a file of this package."""
        assert self._pages.loader is not None
        return self._pages.loader.get_source(self._pages, name)[0]

    async def _check_form(self, request: Request) -> dict[str, list[str]] | Response:
        """Return the fields of a form of this page, or the answer that refuses the request."""
        form = await read_form(request)
        if form is None:
            return self._render_trouble("That was not a form of this page.", 400)
        if not secrets.compare_digest(form.get("token", [""])[0].encode(), self.token.encode()):
            return self._render_trouble(
                "This page comes from an earlier `make review`. Nothing was saved; load the page again.", 403
            )
        return form

    def _render_page(
        self, chosen: Selection, turn: ShownTurn | None, notice: str | None, missing: bool
    ) -> Response:
        """Return the page of a turn, or of an empty selection."""
        session = self.session
        done, total = session.queue.count_reviewed(chosen, session.codes)
        reloaded, session.reloaded = session.reloaded, False
        html = self._template.render(
            options=session.options,
            thresholds=session.queue.manifest.options.get("thresholds") or {},
            same_rubric=session.queue.manifest.options.get("rubric") in (None, session.options.rubric.hash),
            chosen=chosen,
            selection=urlencode(chosen.to_query()),
            orders=self._list_orders(),
            states=STATE_TITLES,
            items=session.queue.items,
            languages=session.queue.languages,
            done=done,
            total=total,
            turn=turn,
            form=None if turn is None else _prefill_form(turn, session),
            refusals={value: said for value, (said, _, _) in _REFUSAL_CHOICES.items()},
            keys={DSAT: "d", NEUTRAL: "n", SAT: "s"},
            measured=session.measure(),
            min_conversations=MIN_CONVERSATIONS_FOR_INTERVAL,
            last=session.journal.find_last(session.options.reviewer.name),
            notice=notice,
            missing=missing,
            reloaded=reloaded,
            pending=session.pending,
            token=self.token,
        )
        return HTMLResponse(html, 404 if missing else 200)

    def _list_orders(self) -> Mapping[str, str]:
        """Return order → title for the orders that are possible with these labels."""
        queue = self.session.queue
        absent = {"uncertain": queue.distances is None, "disagreements": queue.others is None}
        return {name: title for name, title in ORDER_TITLES.items() if not absent.get(name, False)}

    def _describe_last_step(self, saved: str | None, undone: str | None, hidden: bool) -> str | None:
        """Return a sentence about the last step; None if there is nothing to tell.

        Args:
            saved: number of the decision that the last step saved.
            undone: label of the decision that the last step took back.
            hidden: whether the shown turn hides what the judge says. If so, the sentence hides that, too.
        """
        if undone is not None:
            return f"Taken back: {undone}." if undone in LABELS else None
        last = self.session.journal.find_last(self.session.options.reviewer.name)
        if saved is None or last is None or str(last.id) != saved:
            return None
        if last.blind or hidden:
            return f"Saved: {last.label}."
        compared = "the same as" if last.label == last.judge_label else f"{last.judge_label} according to"
        return f"Saved: {last.label}; {compared} the judge."

    def _report_unwritable(self, error: OSError) -> Response:
        """Return the page that says that a decision could not be saved."""
        return self._render_trouble(
            f"NOT SAVED: {error.filename} cannot be written ({error.strerror}). Mend that and decide again.",
            507,
        )

    def _render_trouble(self, text: str, status: int) -> Response:
        """Return a page that says what went wrong."""
        page = self._pages.get_template("trouble.html.jinja")
        return HTMLResponse(page.render(trouble=text), status)


def format_key(key: TurnKey) -> str:
    """Return a turn's key as plain ASCII for an address, such as "4:abc"."""
    return f"{key[1]}:{quote(key[0], safe='')}"


def parse_key(text: str) -> TurnKey | None:
    """Return the key of a text by `format_key`; None for any other text."""
    turn, colon, name = text.partition(":")
    return (unquote(name), int(turn)) if colon and re.fullmatch("[0-9]{1,9}", turn) else None


def make_address(chosen: Selection, **more: str) -> str:
    """Return the page's address for a selection.

    Args:
        chosen: selection.
        more: further parameters, such as `at`, the key of a turn.
    """
    return "/?" + urlencode({**chosen.to_query(), **more})


def _prefill_form(turn: ShownTurn, session: ReviewSession) -> Mapping[str, Any]:
    """Return what the form shows: the reviewer's own decision, else what the judge says, or nothing if that is hidden.

    Only those items of the judge are ticked whose polarity is the judge's label. A NEUTRAL turn may have items, too,
    whose scores did not reach a threshold: accepting NEUTRAL must not make these items the reviewer's own.
    """
    names: set[str]
    refused: tuple[bool | None, bool | None]
    if turn.hidden:
        names, refused, label = set(), (None, None), ""
    elif turn.reviewed is not None:
        mine = turn.reviewed.last
        names, refused, label = set(mine.items), (mine.refusal, mine.correct_refusal), mine.label
    else:
        refused, label = (turn.judged["refusal"], turn.judged["correct_refusal"]), turn.judged["label"]
        names = {item["name"] for item in turn.judged["items"] or () if item["polarity"] == label}
    names &= set(session.options.rubric.polarities)
    states = {(told, right): value for value, (_, told, right) in _REFUSAL_CHOICES.items()}
    return {
        "items": names,
        "shown": json.dumps(sorted(names)),
        "refusal": states.get(refused, "yes" if refused[0] else "no"),
        "label": label,
        "judge_label": "" if turn.hidden else turn.judged["label"],
    }


def _read_answer(form: Mapping[str, list[str]]) -> FormAnswer | None:
    """Return what a form says; None if a field is missing or has an impossible value."""
    try:
        key, label = parse_key(form["at"][0]), form["label"][0]
        shown, prefilled = form["judge_label"][0], form["prefilled_label"][0]
        label = shown if label == ACCEPT_VALUE else label
        _, refusal, correct = _REFUSAL_CHOICES[form["refusal"][0]]
        ticked = json.loads(form["shown"][0])
        if key is None or label not in LABELS or (shown and shown not in LABELS):
            return None
        return FormAnswer(
            key=key,
            label=label,
            items=frozenset(form.get("item", [])),
            shown_items=frozenset(map(str, ticked)),
            prefilled_label=prefilled,
            refusal=refusal,
            correct_refusal=correct,
            judge_label=shown,
            text_hash=form["text"][0],
            blind=not shown,
        )
    except (KeyError, ValueError, TypeError):
        return None
