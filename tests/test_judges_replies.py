"""What a reply says: probabilities of choices, and the tokens of given words."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glossator.judges.base import Failure, Usage
from glossator.judges.faults import MalformedReplyError
from glossator.judges.readings import reading_of
from glossator.judges.replies import checked, has_logprobs, probabilities_of, text_of, usage_of


def place(own, weights):
    """A token of the answer with its alternatives, as servers send it."""
    top = [{"token": token, "logprob": _log(weight)} for token, weight in weights.items()]
    return {"token": own, "logprob": _log(weights.get(own, 0.0)), "top_logprobs": top}


def _log(weight):
    return math.log(weight) if weight else -9999.0


def reply(*places, text="x", finish="stop", **message):
    return {
        "choices": [
            {
                "message": {"content": text, **message},
                "finish_reason": finish,
                "logprobs": {"content": list(places)},
            }
        ]
    }


# --- probabilities


def test_pieces_quotes_spaces_and_case_are_seen_through():
    whole = reply(place("yes", {"yes": 0.6, "no": 0.2, "maybe": 0.2}))
    pieces = reply(place("y", {"y": 0.6, "n": 0.2}), place("es", {"es": 1.0}))
    quoted = reply(
        place('"', {'"': 0.9, '"yes': 0.06, '"no': 0.02}),
        place("yes", {"yes": 0.75, "no": 0.25}),
        place('"', {'"': 1.0}),
    )
    loose = reply(place(" Yes", {" Yes": 0.3, "YES": 0.3, "No": 0.1, "no.": 0.1}))
    for said in (whole, pieces):
        assert probabilities_of(said, ("yes", "no")) == pytest.approx({"yes": 0.75, "no": 0.25})
    assert probabilities_of(quoted, ("yes", "no"))["yes"] == pytest.approx(
        (0.06 + 0.9 * 0.75) / (0.08 + 0.9)
    )
    found = probabilities_of(loose, ("yes", "no"), loosely=True)
    assert found == pytest.approx({"yes": 0.75, "no": 0.25})


def test_choices_that_begin_alike_are_told_apart_where_they_part():
    said = reply(
        place("A", {"A": 0.8, "B": 0.2}), place("2", {"1": 0.25, "2": 0.75}), place("", {"": 1.0})
    )
    found = probabilities_of(said, ("A1", "A2", "B"))
    assert found == pytest.approx({"A1": 0.2, "A2": 0.6, "B": 0.2})


def test_a_choice_that_another_begins_with_ends_where_it_ends():
    choices = ("yes", "yes!")
    stopped = reply(place("yes", {"yes": 1.0}), place("<eos>", {"<eos>": 0.75, "!": 0.25}))
    assert probabilities_of(stopped, choices) == pytest.approx({"yes": 0.75, "yes!": 0.25})
    assert probabilities_of(reply(place("yes", {"yes": 1.0})), choices)["yes"] == 1.0


def test_a_token_that_may_be_either_of_two_leaves_no_probabilities():
    said = reply(place("B", {"A": 0.4, "B": 0.6}))
    assert probabilities_of(said, ("A1", "A2", "B")) is None


@pytest.mark.parametrize(
    "places",
    [
        [],
        [None],
        [{}],
        [{"token": None, "top_logprobs": None}],
        [{"token": "yes", "top_logprobs": [None, {}, {"token": 3, "logprob": "x"}]}],
        [{"token": "yes", "top_logprobs": [{"token": "yes", "logprob": math.nan}]}],
        [{"token": "yes", "top_logprobs": [{"token": "yes", "logprob": 1000.0}]}],
        [{"token": "yes", "top_logprobs": [{"token": "yes", "logprob": -math.inf}]}],
    ],
)
def test_nonsense_gives_no_probabilities(places):
    assert probabilities_of(reply(*places), ("yes", "no")) is None
    assert not has_logprobs(reply(*places))


@given(
    texts=st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=5, unique=True),
    odds=st.lists(st.floats(0.01, 1.0), min_size=5, max_size=5),
    answer=st.integers(0, 4),
)
def test_letter_by_letter_the_odds_of_the_answer_come_out(texts, odds, answer):
    """A model that spells: its tokens are letters, `.` ends. Brute force knows every spelling."""
    total = sum(odds[: len(texts)])
    odds = {text + ".": weight / total for text, weight in zip(texts, odds, strict=False)}
    answer = texts[answer % len(texts)] + "."
    places, before = [], ""
    for letter in answer:
        here = sum(weight for text, weight in odds.items() if text.startswith(before))
        following = {}
        for text, weight in odds.items():
            if text.startswith(before) and text != before:
                token = text[len(before)]
                following[token] = following.get(token, 0.0) + weight / here
        places.append(place(letter, following))
        before += letter
    found = probabilities_of(reply(*places), texts)
    # Two choices that part elsewhere than on the answer's way cannot be told apart.
    groups = {}
    for text in texts:
        shared = next(
            (i for i, (a, b) in enumerate(zip(text + ".", answer, strict=False)) if a != b),
            len(answer),
        )
        if shared < len(answer):
            groups.setdefault((text + ".")[: shared + 1], []).append(text)
    if any(len(group) > 1 for group in groups.values()):
        assert found is None
    else:
        for text in texts:
            assert found[text] == pytest.approx(odds[text + "."], abs=1e-6)


# --- texts and usage


def test_what_is_no_chat_completion_is_refused():
    for nonsense in (
        {},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"message": "text"}]},
        {"choices": {"0": 1}},
        reply(finish="abort"),
        {"choices": reply()["choices"] * 2},
    ):
        with pytest.raises(MalformedReplyError):
            checked(nonsense)
    with pytest.raises(MalformedReplyError, match="upstream is down"):
        checked({"error": {"message": "upstream is down"}})
    assert checked(reply()) == reply()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (reply(text="x", refusal="I cannot"), "refused"),
        (reply(text="x", finish="content_filter"), "refused"),
        (reply(text="x", finish="length"), "truncated"),
        (reply(text="<think>and", finish="length"), "truncated"),
        (reply(text="<think>and</think> "), "empty"),
        (reply(text=None), "empty"),
        (reply(text=["x"]), "empty"),
    ],
)
def test_no_text_is_a_failure_that_says_why(message, kind):
    assert text_of(message, 9).kind == kind


@pytest.mark.parametrize("usage", [None, [], "x", {"prompt_tokens": "x"}, {"prompt_tokens": -1}])
def test_usage_that_is_none_counts_nothing(usage):
    assert usage_of({"usage": usage}) == Usage()


# --- readings


def places_of(tokens, logprobs, others=()):
    """vLLM's `prompt_logprobs`: bytes that end no character have no text, the last has it all."""
    places = [None]
    for number, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True), start=1):
        entry = {str(number): {"decoded_token": token, "logprob": logprob, "rank": 5}}
        entry |= {str(1000 + i): dict(other) for i, other in enumerate(others)}
        places.append(entry)
    return places


def as_vllm_decodes(pieces):
    """Bytes of tokens as vLLM decodes them: whole characters at the last of their tokens."""
    texts, held = [], b""
    for piece in pieces:
        held += piece
        try:
            texts.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            texts.append("")
    return texts


@given(
    words=st.text(
        st.characters(codec="utf-8", categories=["L", "N", "P", "Zs", "So"]), min_size=1, max_size=9
    ),
    cuts=st.lists(st.integers(0, 40)),
    first=st.booleans(),
)
def test_tokens_are_found_from_the_end_and_joined_are_the_words(words, cuts, first):
    data = words.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    before = ["<s>", "user", words, "\n"] if first else ["assistant:"]
    logprobs = [-0.01 * i for i in range(len(before) + len(pieces))]
    places = places_of(before + as_vllm_decodes(pieces), logprobs)
    found = reading_of({"prompt_logprobs": places}, words, 0)
    assert "".join(found.tokens) == words
    assert found.logprobs == tuple(logprobs[len(before) :])
    # No character stands later than the first of its bytes.
    starts = [0]
    for token in found.tokens:
        starts.append(starts[-1] + len(token.encode()))
    assert all(start >= edge for start, edge in zip(starts, edges, strict=True))


def test_a_character_of_several_tokens_stands_whole_at_the_first():
    tokens = ["assistant", "\n", "", "", "日", " a", "", " —", "b"]
    found = reading_of({"prompt_logprobs": places_of(tokens, [-1.0] * 9)}, "日 a —b", 0)
    assert found.tokens == ("日", "", "", " a", " —", "", "b")


def test_a_first_token_may_hold_the_templates_last_space_and_nothing_else():
    spaced = places_of(["Assistant", ":", " yes", " no"], [-1.0] * 4)
    assert reading_of({"prompt_logprobs": spaced}, "yes no", 0).tokens == ("yes", " no")
    merged = places_of(["Assistant", ":eyes", " no"], [-1.0] * 3)
    assert reading_of({"prompt_logprobs": merged}, "yes no", 0).kind == "malformed"


def test_the_prompts_own_token_is_told_by_its_id_and_else_comes_first():
    places = [None, {"7": {"decoded_token": "no", "logprob": -0.1}}]
    places[1]["3"] = {"decoded_token": "yes", "logprob": -2.0}
    by_id = reading_of({"prompt_logprobs": places, "prompt_token_ids": [1, 3]}, "yes", 0)
    first = reading_of({"prompt_logprobs": places}, "no", 0)
    assert (by_id.tokens, by_id.logprobs) == (("yes",), (-2.0,))
    assert (first.tokens, first.logprobs) == (("no",), (-0.1,))


def test_alternatives_are_the_likeliest_and_equal_texts_count_together():
    others = [
        {"decoded_token": "", "logprob": math.log(0.2)},
        {"decoded_token": "", "logprob": math.log(0.1)},
        {"decoded_token": "b", "logprob": math.log(0.05)},
    ]
    places = places_of(["a"], [math.log(0.01)], others)
    found = reading_of({"prompt_logprobs": places}, "a", 3)
    assert found.alternatives[0] == pytest.approx({"": math.log(0.3), "b": math.log(0.05)})
    assert len(reading_of({"prompt_logprobs": places}, "a", 1).alternatives[0]) == 1


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"prompt_logprobs": None},
        {"prompt_logprobs": []},
        {"prompt_logprobs": [None]},
        {"prompt_logprobs": [None, None]},
        {"prompt_logprobs": [None, {"1": None}]},
        {"prompt_logprobs": [None, {"1": {"decoded_token": 3, "logprob": -1.0}}]},
        {"prompt_logprobs": [None, {"1": {"decoded_token": "yes", "logprob": None}}]},
        {"prompt_logprobs": places_of(["yes", "<end>"], [-1.0, -1.0])},
        {"prompt_logprobs": places_of(["\ufffd"], [-1.0])},
        {"prompt_logprobs": places_of(["no"], [-1.0])},
        {"prompt_logprobs": places_of(["yes"], [-1.0]), "prompt_token_ids": [0, 5]},
    ],
)
def test_what_is_not_the_words_to_the_letter_is_malformed(said):
    found = reading_of(said, "yes", 0)
    assert isinstance(found, Failure)
    assert found.kind == "malformed"
