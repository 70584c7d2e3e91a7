"""Words what simulated users type after a reply: complaints, thanks and neutral turns.

The phrasings are hard to judge where people's are: complaints without a negative word, praise in negative words, neutral
turns that sound annoyed or pleased. They share no source with any judge, so that a judge's labels of simulated chats
measure the judge.
"""

from __future__ import annotations

from random import Random
from typing import Final

from drift_data.simulate.world import CATEGORIES, LAYOUTS, ListTask, spell_number

# Dimension that a complaint names → phrasings. {want} is the right value, {got} the value of the reply.
COMPLAINTS: Final[dict[str, tuple[str, ...]]] = {
    "count": (
        "i asked for {want}",
        "that is not {want}",
        "{want}, not {got}",
        "why {got}? i said {want}",
        "count them, i see {got}",
        "the number is off, {want} please",
        "{want} of them please",
        "it was supposed to be {want}",
        "you gave me {got} and i need {want}",
        "{got}? {want} was the plan",
        "should be {want} items",
    ),
    "category": (
        "these are not {want}",
        "i asked for {want}",
        "{want}, not {got}",
        "i meant {want}",
        "since when are those {want}",
        "that is a list of {got}",
        "why {got}? {want} please",
        "you mixed up {want} and {got}",
        "what am i to do with {got}? i need {want}",
        "{want} i said",
        "i do not see any {want} here",
    ),
    "layout": (
        "i wanted it {want}",
        "{want} please",
        "can you do it {want}",
        "the layout is off, {want} please",
        "hard to read like this, do it {want}",
        "as i said, {want}",
        "it should be {want}",
        "please write it {want} this time",
        "not {got}, {want}",
        "was it so hard to write it {want}",
    ),
    "opening": (
        "you did not start with {want}",
        "where is the {want} at the start",
        "the first line should be {want}",
        "it was supposed to begin with {want}",
        "start with {want} like i told you",
        "{want} goes first",
        "you forgot to say {want} at the top",
        "the start is off",
        "what about {want} at the beginning",
    ),
    "closing": (
        "you did not end with {want}",
        "where is the {want} at the end",
        "the last line should be {want}",
        "it was supposed to finish with {want}",
        "end with {want} like i told you",
        "{want} goes last",
        "you left out {want} at the bottom",
        "the end is off",
        "what about {want} at the end",
    ),
    "stars missing": (
        "where are the stars",
        "no stars?",
        "you forgot the stars",
        "each item needs a star",
        "stars please",
        "i asked for a star on each",
        "and the stars?",
    ),
    "stars unwanted": (
        "nobody asked for stars",
        "why the stars",
        "without the stars please",
        "lose the stars",
        "what are these stars doing here",
        "take the stars away",
        "who said anything about stars",
    ),
    "vague": (
        "read it again, that is another thing",
        "from the top please",
        "hmm, nope",
        "read my message again",
        "almost, but no",
        "something here is off",
        "??",
        "surely that was not your best",
        "did you even read it",
        "once more, but with care",
    ),
}
# What may stand before and after a complaint; repeated entries are more frequent.
COMPLAINT_LEADS: Final = (
    "",
    "",
    "",
    "",
    "",
    "no, ",
    "hmm, ",
    "sorry but ",
    "wait, ",
    "again: ",
    "ugh, ",
    "well, ",
)
COMPLAINT_TAILS: Final = ("", "", "", "", "", ", fix it", ", do it again", "!", "...", ", ok?")

THANKS: Final = (
    "thanks!",
    "many thanks to you",
    "thank you, really",
    "thx",
    "perfect",
    "great, just what i need",
    "oh nice",
    "i am happy with this",
    "this is what i wanted",
    "cool",
    "awesome, that helps",
    "you nailed it",
    "yes, like this",
    "brilliant",
    "wonderful, you saved me time",
    "ok that does it",
    "my kids will like this one",
    "spot on for me",
    "haha nice",
    "yes!",
    "better than before",
    "now it is right",
    # Praise in negative words.
    "not bad at all",
    "nothing wrong with that",
    "i can not ask for more",
    "wow, i did not expect that",
    "no more questions, that was it",
)
# Beginnings of a message that goes on with a request for a new task.
NEXT_LEADS: Final = (
    "",
    "",
    "",
    "",
    "next: ",
    "now ",
    "ok, now ",
    "another one: ",
    "and then ",
    "different topic. ",
)
# Beginnings that sound like a complaint or like thanks, although the message is neutral.
HARD_NEXT_LEADS: Final = (
    "no rush, but ",
    "sorry, one more: ",
    "i forgot to ask, ",
    "not about this one, but ",
    "forget the {category} for now, ",
    "wait, before i forget, ",
    "my plan was wrong, i need more. ",
    "i made a mistake in my list. ",
    "this is for a game about bad habits. ",
    "my boss did not like my old list, so ",
    "again, but with a new topic: ",
    "please do this one too: ",
    "thanks in advance: ",
    "for a thank you card: ",
    "for a great party, ",
    "i like nice lists. ",
)
# Neutral messages without a request.
SMALL_TALK: Final = (
    "ok",
    "i see",
    "which one do you like",
    "do you know more of them",
    "let me think",
    "who made you",
    "where can i read more",
    "one moment",
)
# Neutral messages without a request that sound like a complaint or like thanks.
HARD_SMALL_TALK: Final = (
    "is it bad to like only one of them",
    "my brother does not like any of these",
    "why do people ask for such things",
    "i am not good at lists",
    "wait, the phone",
    "i have the wrong day, but no matter",
    "are these the best ones",
    "what is a good number of them",
)
# What the assistant answers to thanks or small talk.
SMALL_TALK_REPLIES: Final = ("You are welcome!", "Happy to help!", "Anything else?")


def choose_complaint_phrases(task: ListTask, held: ListTask, dimension: str | None) -> tuple[str, ...]:
    """Return the phrasings that name a dimension which the reply got wrong; None: those that name nothing."""
    if dimension is None:
        return COMPLAINTS["vague"]
    if dimension == "stars":
        return COMPLAINTS["stars missing" if task.stars else "stars unwanted"]
    return COMPLAINTS[dimension]


def word_complaint(task: ListTask, held: ListTask, dimension: str | None, rng: Random) -> str:
    """Word a complaint about a reply.

    Args:
        task: what was asked for.
        held: what the reply holds.
        dimension: the wrong dimension that the complaint names; None: it names nothing.
        rng: random generator.
    """
    text = rng.choice(choose_complaint_phrases(task, held, dimension))
    want, got = "", ""
    if dimension == "count":
        want, got = spell_number(task.count), spell_number(held.count)
    elif dimension == "category":
        want, got = str(task.category), str(held.category)
    elif dimension == "layout":
        want, got = (rng.choice(LAYOUTS[str(side.layout)]) for side in (task, held))
    elif dimension in ("opening", "closing"):
        want = str(getattr(task, dimension))
    text = text.format(want=want, got=got)
    return rng.choice(COMPLAINT_LEADS) + text + rng.choice(COMPLAINT_TAILS)


def word_next_request(request: str, task: ListTask, hard: bool, rng: Random) -> str:
    """Word a neutral change to a new task.

    Args:
        request: the request for the new task.
        task: the task before.
        hard: whether the words sound like a verdict on the reply before.
        rng: random generator.
    """
    lead = rng.choice(HARD_NEXT_LEADS if hard else NEXT_LEADS)
    return lead.format(category=task.category or next(iter(CATEGORIES))) + request


def word_thanks(rng: Random) -> str:
    """Word satisfaction with the reply just given."""
    return rng.choice(THANKS)


def word_small_talk(hard: bool, rng: Random) -> str:
    """Word a neutral turn that asks for no task; `hard`: it sounds like a verdict on the reply before."""
    return rng.choice(HARD_SMALL_TALK if hard else SMALL_TALK)
