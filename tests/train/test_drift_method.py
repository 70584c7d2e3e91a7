from conftest import assistant, user

from drift_train.methods import METHODS

DRIFT = METHODS["drift"]
PROMPT = [{"role": "system", "content": "be short"}, *user("hi"), *assistant("hello"), *user("list fruits")]


def test_guided_prompt_is_x_then_the_rejected_reply_then_complaint_and_instruction() -> None:
    asked = DRIFT.asked(PROMPT, "blue", "wrong colour", "Do it again.")
    assert asked == {"guided": [*PROMPT, *assistant("blue"), *user("wrong colour\n\nDo it again.")]}


def test_without_guidance_only_x_is_shown() -> None:
    assert DRIFT.asked(PROMPT, "blue", None, "Do it again.") == {"plain": PROMPT}


def test_training_prompt_is_x_whatever_was_shown() -> None:
    for complaint in ("wrong colour", None):
        ((kind, messages),) = DRIFT.asked(PROMPT, "blue", complaint, "Do it again.").items()
        assert DRIFT.prompt(kind, messages) == PROMPT


def test_the_sample_is_chosen_and_the_logged_reply_rejected() -> None:
    assert DRIFT.pair({"guided": "apple"}, "blue") == ("apple", "blue")
