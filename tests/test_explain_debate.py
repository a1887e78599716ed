"""Debate: a claim needs verified quotes, and neither place nor length wins a vote."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from asked_judges import Knowing, entries, explained_as
from glossator.errors import InputError
from glossator.explain import Debate, explain, explainer_of
from glossator.explain.debate import ballot, filled
from glossator.explain.quotes import find_quotes
from glossator.explain.views import Passage, View
from glossator.judges.base import Answer, Failure
from glossator.shown import Shown
from planted import planted_index


def passage(pieces, active=(), starts=()):
    n = len(pieces)
    shown = Shown(tuple(pieces), tuple(range(n)), tuple(i in starts for i in range(n)), (True,) * n)
    return Passage(shown, np.array([float(i in active) for i in range(n)], np.float32))


claims = st.lists(
    st.tuples(
        st.text("abc é<>[].:\n", max_size=60).map(lambda text: " ".join(text.split())),
        st.lists(st.text("xyz <>", max_size=30), max_size=3),
    ),
    min_size=2,
    max_size=5,
)


@given(claims, st.data())
def test_all_entries_but_one_are_of_one_length_and_that_one_is_the_longest(said, data):
    n = len(said)
    first, longest = (data.draw(st.integers(0, n - 1)) for _ in range(2))
    (shown,) = [ballot(said, first, longest)]

    class prompt:  # noqa: N801
        user = shown

    found = entries(prompt)
    assert len(found) == n
    sizes = {}
    for place, (claim, quotes, block) in enumerate(found):
        which = (first + place) % n
        assert claim.startswith(said[which][0])
        assert len(quotes) == 3
        sizes[which] = (len(claim), sum(map(len, quotes)), len(block), len(claim.split()))
    others = [size for which, size in sizes.items() if which != longest]
    assert len({size[:3] for size in others}) == 1
    for measure in (0, 2):
        assert sizes[longest][measure] >= others[0][measure] + 120


@given(st.text(max_size=50), st.integers(0, 1_000))
def test_filler_brings_a_text_to_its_length_exactly(text, more):
    width = len(text) + more
    assert len(filled(text, width)) == width + 3
    assert filled(text, width).startswith(text + " [")


# --- who wins -----------------------------------------------------------------------------------


def length_of_claim(entry):
    return len(entry[0])


def length_of_all(entry):
    return len(entry[2])


def words_of_claim(entry):
    return len(entry[0].split())


BIASED = {
    "always the first": lambda shown: 0,
    "always the last": lambda shown: len(shown) - 1,
    "the longest claim": lambda shown: max(
        range(len(shown)), key=lambda i: length_of_claim(shown[i])
    ),
    "the longest entry": lambda shown: max(
        range(len(shown)), key=lambda i: length_of_all(shown[i])
    ),
    "the most words": lambda shown: max(range(len(shown)), key=lambda i: words_of_claim(shown[i])),
    "the shortest entry": lambda shown: min(
        range(len(shown)), key=lambda i: length_of_all(shown[i])
    ),
    "the last of the longest": lambda shown: max(
        range(len(shown)), key=lambda i: (length_of_all(shown[i]), i)
    ),
}


def view(latent, passages, seed=0):
    return View("hook", latent, seed, tuple(passages), str)


PASSAGES = [passage([f" a{i}", f" hit{i}", f" b{i}", f" c{i}"], {1}) for i in range(12)]


def argument(text, n_quotes=3, first=0):
    quotes = [f"hit{(first + i) % 12} b{(first + i) % 12}" for i in range(n_quotes)]
    return explained_as(text, notes="", quotes=quotes)


def debated(explainer, one, arguments, choose):
    """The outcome of a debate in which the debaters say these and `choose` takes a place."""
    steps = explainer.steps(one)
    asks = next(steps)
    assert len(asks) == explainer.debaters
    try:
        asks = steps.send([Answer(text) for text in arguments])
        while True:
            letters = []
            for ask in asks:
                shown = entries(ask.prompt)
                letters.append(Answer(ask.choices[choose(shown)]))
            asks = steps.send(letters)
    except StopIteration as over:
        return over.value


LENGTHS = {2: (4, 30), 3: (3, 12, 40), 4: (2, 8, 20, 45)}


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("bias", BIASED)
def test_a_chooser_that_goes_by_place_or_length_favours_no_debater(bias, n):
    """Texts of 2 to 45 words; over many latents every debater wins equally often."""
    explainer = Debate(debaters=n)
    won = Counter()
    latents = 300
    for latent in range(latents):
        order = np.random.default_rng(latent).permutation(n)
        texts = [
            " ".join(f"word{latent}x{number}"[: 3 + number % 7] for _ in range(LENGTHS[n][size]))
            + f" by {number}"
            for number, size in enumerate(order.tolist())
        ]
        told = debated(
            explainer, view(latent, PASSAGES), [argument(text) for text in texts], BIASED[bias]
        )
        assert [round(one.score, 9) for one in told.attempts] == [round(1 / n, 9)] * n
        won["size", int(order[texts.index(told.text)])] += 1
        won["debater", texts.index(told.text)] += 1
    for count in won.values():
        assert binomtest(count, latents, 1 / n).pvalue > 1e-4, won


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_chooser_that_knows_the_truth_wins_against_any_place_and_length(n):
    explainer = Debate(debaters=n)
    for latent in range(40):
        rng = np.random.default_rng(latent)
        right = int(rng.integers(n))
        texts = [f"claim {i} " + "and more " * int(rng.integers(0, 8)) for i in range(n)]
        texts[right] = "the truth"
        told = debated(
            explainer,
            view(latent, PASSAGES),
            [argument(text) for text in texts],
            lambda shown: next(i for i, e in enumerate(shown) if e[0].startswith("the truth")),
        )
        assert told.text == "the truth"
        assert [one.kept for one in told.attempts] == [i == right for i in range(n)]


def test_without_balance_the_same_choosers_would_decide():
    """The simulation can fail: shown once, in one order, place and length win every time."""
    texts = [("short", []), ("a claim of a good many more words than the other has", [])]
    raw = "\n".join(
        f"{letter}.\n   Claim: {text}" for letter, (text, _) in zip("AB", texts, strict=True)
    )

    class prompt:  # noqa: N801
        user = raw

    assert BIASED["always the first"](entries(prompt)) == 0
    assert BIASED["the longest claim"](entries(prompt)) == 1


def test_of_equal_votes_the_more_verified_quotes_win():
    said = [argument("two quotes", 2), argument("three quotes", 3), argument("one quote", 1)]
    for latent in range(20):
        told = debated(Debate(), view(latent, PASSAGES), said, lambda shown: 0)
        assert told.text == "three quotes"


def test_one_who_quotes_what_is_not_there_does_not_stand():
    forged = explained_as("forged", notes="", quotes=["hit1  b1", "hit77 b77", "a1"])
    said = [forged, argument("honest"), argument("honest")]
    told = debated(
        Debate(), view(0, PASSAGES), said, lambda shown: pytest.fail("nothing to choose")
    )
    assert told.text == "honest"
    assert [one.kept for one in told.attempts] == [False, True, True]
    assert told.attempts[0].note == "no quote was there"
    failed = debated(Debate(), view(0, PASSAGES), [forged] * 3, lambda shown: 0)
    assert isinstance(failed, Failure)
    assert failed.kind == "malformed"


def answering(explainer, one, arguments, ballots):
    steps = explainer.steps(one)
    next(steps)
    try:
        asks = steps.send(arguments)
        steps.send(ballots(asks))
    except StopIteration as over:
        return over.value
    raise AssertionError("asks for more")


SAID = [Answer(argument(f"claim {i}")) for i in range(3)]


def test_votes_are_probabilities_where_the_judge_gives_them():
    def ballots(asks):
        shares = {"claim 0": 0.3, "claim 1": 0.45, "claim 2": 0.25}
        for ask in asks:
            by_letter = {
                letter: shares[e[0][:7]]
                for letter, e in zip("ABC", entries(ask.prompt), strict=True)
            }
            yield Answer("A", probabilities=by_letter)

    told = answering(Debate(), view(0, PASSAGES), SAID, lambda asks: list(ballots(asks)))
    assert [round(one.score, 9) for one in told.attempts] == [0.3, 0.45, 0.25]
    assert told.text == "claim 1"


def test_a_ballot_without_a_letter_favours_nobody_and_none_at_all_is_a_failure():
    odd = Answer("neither")
    told = answering(
        Debate(), view(0, PASSAGES), SAID, lambda asks: [odd] * 4 + [Answer("B")] + [odd] * 4
    )
    # The fifth ballot begins with claim 1, so B is claim 2.
    assert told.text == "claim 2"
    failed = answering(Debate(), view(0, PASSAGES), SAID, lambda asks: [odd] * 9)
    assert (failed.kind, failed.message) == ("malformed", "the choice is no letter")
    out = Answer(failure=Failure("timeout"))
    failed = answering(Debate(), view(0, PASSAGES), SAID, lambda asks: [Answer("A")] * 8 + [out])
    assert failed.kind == "timeout"


def test_a_debater_that_fails_is_left_out_unless_the_server_was_at_fault():
    cut = Answer(failure=Failure("truncated"))
    told = answering(
        Debate(), view(0, PASSAGES), [cut, *SAID[1:]], lambda asks: [Answer("A")] * len(asks)
    )
    assert [one.text for one in told.attempts] == ["", "claim 1", "claim 2"]
    assert told.attempts[0].note == "truncated"
    steps = Debate().steps(view(0, PASSAGES))
    next(steps)
    with pytest.raises(StopIteration) as over:
        steps.send([Answer(failure=Failure("connection")), *SAID[1:]])
    assert over.value.value.kind == "connection"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=4)


def test_debaters_read_the_same_passages_in_other_orders_and_the_chooser_none(planted):
    index, text = planted

    def debater(prompt, choices):
        line = re.search(r"^Example 1: (.*)$", prompt.user, re.MULTILINE)[1]
        quote = re.search(r"<<.*?>>", line)[0]
        return explained_as(f"text {len(prompt.user)}-{quote}", notes="secret", quotes=[quote] * 3)

    judge = Knowing(debater)
    chooser = Knowing(lambda prompt, choices: "B", name="weak")
    explained = explain(index, [0, 2], explainer=Debate(), judge=judge, chooser=chooser, text=text)
    assert explained.failures == ()
    assert {one.explainer for one in explained.explanations} == {"debate(chooser=weak):known"}
    assert len(judge.asked) == 6
    assert len(chooser.asked) == 18
    assert explained.usage.requests == 24
    by_latent = {}
    for prompt in judge.asked:
        by_latent.setdefault(prompt.group, []).append(prompt.user)
    for prompts in by_latent.values():
        lines = [re.findall(r"^Example \d+: (.*)$", prompt, re.MULTILINE) for prompt in prompts]
        assert len({tuple(one) for one in lines}) == 3
        assert len({tuple(sorted(one)) for one in lines}) == 1
        assert len({prompt.splitlines()[-1] for prompt in prompts}) == 3
    for prompt in chooser.asked:
        assert "secret" not in prompt.user
        assert "Example" not in prompt.user
    assert [one.number for one in explained.attempts] == [1, 2, 3, 1, 2, 3]
    assert sum(one.kept for one in explained.attempts) == 2
    assert chooser.closed == judge.closed == 1


def test_the_same_seed_gives_the_same_debate(planted):
    index, text = planted
    texts = []
    for _ in range(2):
        judge = Knowing(
            lambda prompt, choices: (
                "A"
                if choices
                else explained_as(
                    prompt.user.splitlines()[-1],
                    notes="",
                    quotes=re.findall(r"<<.*?>>", prompt.user)[:3],
                )
            )
        )
        explained = explain(index, [0, 1, 2], explainer=Debate(), judge=judge, text=text, seed=5)
        texts.append(
            ([e.text for e in explained.explanations], sorted(p.user for p in judge.asked))
        )
    assert texts[0] == texts[1]


def test_settings_that_make_no_debate_are_refused():
    for settings, message in [
        ({"debaters": 1}, "`debaters` is 1"),
        ({"debaters": "9"}, "`debaters` is '9'"),
        ({"cot": "true"}, "debaters write notes; leave `cot` out"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            explainer_of("debate", **settings)


def test_the_worked_examples_quote_their_own_passages_verbatim():
    from glossator.explain.shots import PLAIN

    explainer = Debate()
    prompt = explainer.prompt(view(0, PASSAGES))
    assert len(prompt.shots) == len(PLAIN)
    for shot, (_, answer) in zip(PLAIN, prompt.shots, strict=True):
        fields = json.loads(answer)
        found = find_quotes(fields["quotes"], shot.active, explainer.threshold)
        assert len(found) == len(fields["quotes"]) == 3


def test_every_claim_stands_in_each_place_and_is_the_longest_equally_often():
    for n in (2, 3, 5):
        said = [(f"claim {i}", []) for i in range(n)]
        seen = Counter()
        for first, longest in itertools.product(range(n), repeat=2):

            class prompt:  # noqa: N801
                user = ballot(said, first, longest)

            shown = entries(prompt)
            sizes = [len(entry[2]) for entry in shown]
            for place, entry in enumerate(shown):
                seen[entry[0][:7], place, sizes[place] == max(sizes)] += 1
        for i in range(n):
            for place in range(n):
                assert seen[f"claim {i}", place, True] == 1
                assert seen[f"claim {i}", place, False] == n - 1
