"""The pages of a review over HTTP: show a turn, keep a decision, take one back. Knows no table.

Every page is made here and works without its script; a decision is a form, and the answer to it leads to the next
turn. One request is answered at a time: there is one reviewer.
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
from drift_data.review.measure import ENOUGH
from drift_data.review.queue import Key
from drift_data.review.security import Gate, read_form
from drift_data.review.selection import ORDERS, STATES, Selection, selection
from drift_data.review.session import Answer, Session, Stale, Turn
from drift_data.schema import DSAT, LABELS, NEUTRAL, SAT
from drift_data.workspace import UserError

ACCEPT: Final = "accept"
_REFUSALS: Final = {  # value of the form → what it says, refusal, correct_refusal
    "": ("not said", None, None),
    "no": ("no refusal", False, None),
    "yes": ("a refusal", True, None),
    "deserved": ("a refusal, rightly", True, True),
    "undeserved": ("a refusal, wrongly", True, False),
}
_SHOWN: Final = 600  # characters of the judge's reason and evidence


class Pages:
    """Answers requests for one session.

    Args:
        session: of the reviewer.
        start: what is shown first.
    """

    def __init__(self, session: Session, start: Selection) -> None:
        self.session, self.start = session, start
        self.token = secrets.token_urlsafe(24)
        self._pages = make_environment(_SHOWN, "drift_data.review")
        self._pages.filters["key"] = show_key
        self._pages.globals["address"] = address
        self._template = self._pages.get_template("page.html.jinja")

    def app(self, key: str, cookie: str) -> Starlette:
        """Return the application behind its gate."""
        routes = [
            Route("/", self.show),
            Route("/decide", self.decide, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
            Route("/review.css", self.style),
            Route("/review.js", self.script),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Gate, key=key, cookie=cookie)])

    async def show(self, request: Request) -> Response:
        """Show the turn that the address names, or the first of its selection."""
        given = dict(request.query_params)
        at, saved, undone = (given.pop(name, None) for name in ("at", "saved", "undone"))
        try:
            chosen = selection(given, "The address:") if given else self.start
            self.session.refresh()
            number = self._number(at, chosen)
            turn = None if number is None else self.session.turn(number, chosen)
        except UserError as error:
            return self._trouble(str(error), 503)
        notice = self._told(saved, undone, hidden=turn is not None and turn.hidden)
        return self._page(chosen, turn, notice, missing=at is not None and turn is None)

    def _number(self, at: str | None, chosen: Selection) -> int | None:
        if at is None:
            return self.session.queue.step(chosen, self.session.codes)
        key = read_key(at)
        return None if key is None else self.session.queue.number(*key)

    async def decide(self, request: Request) -> Response:
        """Keep the decision of a form, and lead on to the next turn."""
        form = await self._form(request)
        if isinstance(form, Response):
            return form
        answer = _answer(form)
        if answer is None:
            return self._trouble("The form is not complete. Nothing was saved; load the page again.", 400)
        try:
            chosen = selection(dict(parse_qsl(form["selection"][0])), "The form:")
            self.session.refresh()
            decision = self.session.decide(answer, chosen)
        except (Stale, UserError) as error:
            return self._trouble(f"Nothing was saved: {error}", 409)
        except (ValueError, KeyError):
            return self._trouble("The form is not complete. Nothing was saved; load the page again.", 400)
        except OSError as error:
            return self._not_kept(error)
        number = self.session.queue.number(*answer.key)
        following = self.session.queue.step(chosen, self.session.codes, number)
        at = {} if following is None else {"at": show_key(self.session.queue.key(following))}
        return RedirectResponse(address(chosen, **at, saved=str(decision.id)), 303)

    async def undo(self, request: Request) -> Response:
        """Take a decision back, and show its turn."""
        form = await self._form(request)
        if isinstance(form, Response):
            return form
        try:
            chosen = selection(dict(parse_qsl(form["selection"][0])), "The form:")
            self.session.refresh()
            decision = self.session.undo(int(form["decision"][0]))
        except UserError as error:
            return self._trouble(str(error), 503)
        except (ValueError, KeyError):
            return self._trouble("The form is not complete. Load the page again.", 400)
        except OSError as error:
            return self._not_kept(error)
        if decision is None:
            return self._trouble(
                "That decision was taken back or changed already, perhaps in another tab.", 409
            )
        return RedirectResponse(address(chosen, at=show_key(decision.key), undone=decision.label), 303)

    async def style(self, request: Request) -> Response:
        """Return the style sheet: that of all reports, and what this page adds."""
        return Response(
            f"{self._pages.globals['style']}\n{self._source('review.css')}", media_type="text/css"
        )

    async def script(self, request: Request) -> Response:
        """Return the script of the keys."""
        return Response(self._source("review.js"), media_type="text/javascript")

    def _source(self, name: str) -> str:
        assert self._pages.loader is not None
        return self._pages.loader.get_source(self._pages, name)[0]

    async def _form(self, request: Request) -> dict[str, list[str]] | Response:
        form = await read_form(request)
        if form is None:
            return self._trouble("That was no form of this page.", 400)
        if not secrets.compare_digest(form.get("token", [""])[0].encode(), self.token.encode()):
            return self._trouble(
                "This page is of an earlier `make review`. Nothing was saved; load it again.", 403
            )
        return form

    def _page(self, chosen: Selection, turn: Turn | None, notice: str | None, missing: bool) -> Response:
        session = self.session
        done, total = session.queue.progress(chosen, session.codes)
        reloaded, session.reloaded = session.reloaded, False
        html = self._template.render(
            options=session.options,
            thresholds=session.queue.manifest.options.get("thresholds") or {},
            same_rubric=session.queue.manifest.options.get("rubric") in (None, session.options.rubric.hash),
            chosen=chosen,
            selection=urlencode(chosen.query()),
            orders=self._orders(),
            states=STATES,
            items=session.queue.items,
            languages=session.queue.languages,
            done=done,
            total=total,
            turn=turn,
            form=None if turn is None else _prefilled(turn, session),
            refusals={value: said for value, (said, _, _) in _REFUSALS.items()},
            keys={DSAT: "d", NEUTRAL: "n", SAT: "s"},
            measured=session.measured(),
            enough=ENOUGH,
            last=session.journal.last(session.options.reviewer.name),
            notice=notice,
            missing=missing,
            reloaded=reloaded,
            pending=session.pending,
            token=self.token,
        )
        return HTMLResponse(html, 404 if missing else 200)

    def _orders(self) -> Mapping[str, str]:
        queue = self.session.queue
        absent = {"uncertain": queue.distances is None, "disagreements": queue.others is None}
        return {name: title for name, title in ORDERS.items() if not absent.get(name, False)}

    def _told(self, saved: str | None, undone: str | None, hidden: bool) -> str | None:
        """Return what the last step did."""
        if undone is not None:
            return f"Taken back: {undone}." if undone in LABELS else None
        last = self.session.journal.last(self.session.options.reviewer.name)
        if saved is None or last is None or str(last.id) != saved:
            return None
        if last.blind or hidden:
            return f"Saved: {last.label}."
        same = "as" if last.label == last.judge_label else f"{last.judge_label} for"
        return f"Saved: {last.label}; {same} the judge."

    def _not_kept(self, error: OSError) -> Response:
        return self._trouble(
            f"NOT SAVED: {error.filename} cannot be written ({error.strerror}). Mend that and decide again.",
            507,
        )

    def _trouble(self, text: str, status: int) -> Response:
        page = self._pages.get_template("trouble.html.jinja")
        return HTMLResponse(page.render(trouble=text), status)


def show_key(key: Key) -> str:
    """Return a turn's key as plain ASCII, such as "4:abc"."""
    return f"{key[1]}:{quote(key[0], safe='')}"


def read_key(text: str) -> Key | None:
    """Return the key that `show_key` wrote."""
    turn, colon, name = text.partition(":")
    return (unquote(name), int(turn)) if colon and re.fullmatch("[0-9]{1,9}", turn) else None


def address(chosen: Selection, **more: str) -> str:
    """Return the address of a selection, and of a turn in it."""
    return "/?" + urlencode({**chosen.query(), **more})


def _prefilled(turn: Turn, session: Session) -> Mapping[str, Any]:
    """Return what is ticked: the reviewer's own, else the judge's for its label, nothing when that is hidden.

    Signs that did not reach their threshold stay unticked: accepting NEUTRAL must not make them the person's own.
    """
    names: set[str]
    refused: tuple[bool | None, bool | None]
    if turn.hidden:
        names, refused, label = set(), (None, None), ""
    elif turn.mine is not None:
        mine = turn.mine.last
        names, refused, label = set(mine.items), (mine.refusal, mine.correct_refusal), mine.label
    else:
        refused, label = (turn.judged["refusal"], turn.judged["correct_refusal"]), turn.judged["label"]
        names = {item["name"] for item in turn.judged["items"] or () if item["polarity"] == label}
    names &= set(session.options.rubric.polarities)
    states = {(told, right): value for value, (_, told, right) in _REFUSALS.items()}
    return {
        "items": names,
        "shown": json.dumps(sorted(names)),
        "refusal": states.get(refused, "yes" if refused[0] else "no"),
        "label": label,
        "judge_label": "" if turn.hidden else turn.judged["label"],
    }


def _answer(form: Mapping[str, list[str]]) -> Answer | None:
    """Return what a form says, None when it lacks something."""
    try:
        key, label = read_key(form["at"][0]), form["label"][0]
        shown, prefilled = form["judge_label"][0], form["prefilled_label"][0]
        label = shown if label == ACCEPT else label
        _, refusal, correct = _REFUSALS[form["refusal"][0]]
        ticked = json.loads(form["shown"][0])
        if key is None or label not in LABELS or (shown and shown not in LABELS):
            return None
        return Answer(
            key=key,
            label=label,
            items=frozenset(form.get("item", [])),
            shown_items=frozenset(map(str, ticked)),
            prefilled_label=prefilled,
            refusal=refusal,
            correct_refusal=correct,
            judge_label=shown,
            text=form["text"][0],
            blind=not shown,
        )
    except (KeyError, ValueError, TypeError):
        return None
