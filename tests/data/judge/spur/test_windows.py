"""Which messages a request shows and judges."""

from hypothesis import given
from hypothesis import strategies as st

from drift_data.chats.turns import find_feedback_turns
from drift_data.judge.spur.options import WindowOptions
from drift_data.judge.spur.windows import cut_windows


def chat(messages: int, size: int = 10) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": str(at % 10) * size} for at in range(messages)]


def cut(messages, **options):
    return [
        (w.first, w.first + len(w.messages) - 1, list(w.turns))
        for w in cut_windows(messages, WindowOptions(**options))
    ]


def test_a_short_conversation_is_one_window_that_ends_with_its_last_feedback_turn():
    assert cut(chat(6)) == [(0, 4, [2, 4])]
    assert cut(chat(5)) == [(0, 4, [2, 4])]


def test_a_conversation_without_feedback_turn_has_no_window():
    assert cut(chat(2)) == cut(chat(0)) == []


def test_neighbouring_windows_overlap_by_the_context_before_the_first_judged_reply():
    assert cut(chat(13), turns=3, context=2) == [(0, 6, [2, 4, 6]), (5, 12, [8, 10, 12])]
    assert cut(chat(9), turns=1, context=0) == [(1, 2, [2]), (3, 4, [4]), (5, 6, [6]), (7, 8, [8])]


def test_characters_bound_a_window_but_one_turn_always_fits():
    # Messages of 1,000 characters, of replies 200 are shown: messages 1–4 take 2 × 1,000 + 2 × 200.
    options = {"context": 0, "reply_characters": 200}
    assert cut(chat(9, 1_000), characters=2_400, **options) == [(1, 4, [2, 4]), (5, 8, [6, 8])]
    assert cut(chat(5, 1_000), characters=2_399, **options) == [(1, 2, [2]), (3, 4, [4])]
    assert cut(chat(5, 1_000), characters=1, context=0) == [(1, 2, [2]), (3, 4, [4])]


@given(
    st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=40),
    st.integers(1, 6),
    st.integers(0, 5),
    st.integers(1, 200),
)
def test_every_feedback_turn_is_judged_once_and_shown_with_its_reply(roles, turns, context, characters):
    messages = [{"role": role, "content": "word " * 3} for role in roles]
    found = list(cut_windows(messages, WindowOptions(turns=turns, context=context, characters=characters)))
    assert [turn for window in found for turn in window.turns] == find_feedback_turns(messages)
    for window in found:
        assert list(window.messages) == messages[window.first : window.turns[-1] + 1]
        assert window.first <= window.turns[0] - 1 and len(window.turns) <= turns


def test_turns_that_are_not_asked_about_move_no_cut_and_are_shown_only_before_one_that_is():
    def asked(*turns):
        options = WindowOptions(turns=3, context=2)
        return [
            (w.first, w.first + len(w.messages) - 1, list(w.turns))
            for w in cut_windows(chat(13), options, set(turns))
        ]

    assert asked(2, 4, 6, 8, 10, 12) == cut(chat(13), turns=3, context=2)
    assert asked(2, 4, 6) == [(0, 6, [2, 4, 6])]
    assert asked(4, 10) == [(0, 4, [4]), (5, 10, [10])]
    assert asked() == []
