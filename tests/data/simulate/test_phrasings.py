"""The simulated users do not speak the local judge's phrases: what it makes of them is a measurement."""

import re

from drift_data.judge.local.cues import load_cues
from drift_data.judge.local.text import expand_cues
from drift_data.simulate import users

LONGEST_SHARED = 3  # words; "i asked for" is nobody's property, a sentence is


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower().replace("'", "")))


def judge_phrases() -> set[str]:
    cues = [cue for sign in load_cues().signs for cue in sign.cues]
    return {words(pattern) for pattern in expand_cues(cues)["pattern"].to_list()} - {""}


def user_phrases() -> set[str]:
    tables = [
        *users.COMPLAINTS.values(),
        users.THANKS,
        users.NEXT_LEADS,
        users.HARD_NEXT_LEADS,
        users.SMALL_TALK,
        users.HARD_SMALL_TALK,
    ]
    return {words(re.sub(r"\{\w+\}", "these", phrase)) for table in tables for phrase in table} - {""}


def test_no_sentence_of_the_users_is_a_phrase_of_the_judge() -> None:
    shared = {phrase for phrase in user_phrases() & judge_phrases() if len(phrase.split()) > 1}
    assert not shared


def test_no_long_phrase_of_the_judge_is_inside_a_sentence_of_the_users() -> None:
    long = [phrase for phrase in judge_phrases() if len(phrase.split()) > LONGEST_SHARED]
    inside = {(phrase, said) for phrase in long for said in user_phrases() if f" {phrase} " in f" {said} "}
    assert len(long) > 100
    assert not inside
