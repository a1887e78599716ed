"""Simulation: an activation for every token, from the probabilities of digits."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from glossator.errors import InputError
from glossator.judges.base import Capabilities, Failure, Reading
from glossator.records import Verdict
from glossator.score.agreement import simulation_figures
from glossator.score.simulation import (
    SimulationOptions,
    SimulationScorer,
    expected_values,
    listed,
)
from glossator.store import Store
from judge_servers import coin
from planted import planted_index
from scorer_parts import CUT, PLAN, asked, lost, materials_of, window

LATENTS = range(4)
JOINING = re.compile(r"\n|\t…|\t|[^\n\t]+")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=6)


def reading(reply, digit_of, cut=CUT):
    """What a judge says of a reply that gives `digit_of(token)` nearly all the weight of digits."""
    tokens = tuple(cut.findall(reply))
    alternatives, token = [], ""
    for before, piece in zip(("", *tokens), tokens, strict=False):
        place = {"…": math.log(0.9), "⏎": math.log(0.01)}
        if before == "\t" and piece == "…":
            place |= {str(digit): weight for digit, weight in digit_of(token).items()}
        alternatives.append(place)
        token = piece if piece not in "\t\n" else token
    return Reading(tokens, (0.0,) * len(tokens), tuple(alternatives))


def sure(digit):
    return {digit: math.log(0.05), (digit + 3) % 10: math.log(1e-6)}


def knowing(job):
    latent = re.search(r"latent (\d+)", job.prompt.user)[1]

    def digit_of(token):
        # Each decile is four times as strong as the one below it.
        hit = re.match(rf"¶? ?hit{latent}d(\d+)$", token)
        return sure({10: 9, 9: 2}.get(int(hit[1]), 1) if hit else 0)

    return reading(job.prompt.reply, digit_of)


def guessing(job):
    return reading(
        job.prompt.reply, lambda token: sure(9 if coin(0.2, job.prompt.reply, token) else 0)
    )


def figures_of(planted, verdicts, latent):
    (material,) = materials_of(planted, [latent])
    windows = {window.example_id: window for window in material.windows}
    mine = [v for v in verdicts if v.example_id in windows]
    return simulation_figures(
        [np.array(v.value) for v in mine],
        [windows[v.example_id].activations.astype(float) for v in mine],
        np.arange(len(mine)),
    )


def test_a_judge_who_knows_the_truth_agrees_with_it(planted):
    verdicts = asked(SimulationScorer(), materials_of(planted, LATENTS), knowing)
    assert len(verdicts) == len(LATENTS) * (10 + 10)
    assert all(v.answer is None and v.failure is None and len(v.value) == 32 for v in verdicts)
    for latent in LATENTS:
        found = figures_of(planted, verdicts, latent)
        # `by` and `far`, at a half and a tenth of the strength, are not known to it.
        assert found["correlation"].value > 0.75
        assert found["correlation"].low > 0.2
        assert found["explained_variance"].value == pytest.approx(found["correlation"].value ** 2)


def test_a_judge_who_guesses_is_at_nought(planted):
    verdicts = asked(SimulationScorer(), materials_of(planted, LATENTS), guessing)
    for latent in LATENTS:
        correlation = figures_of(planted, verdicts, latent)["correlation"]
        assert abs(correlation.value) < 0.2
        assert correlation.low < 0 < correlation.high


def test_what_fails_is_missing_and_never_nought(planted):
    materials = materials_of(planted, [0])
    for answer in (
        lost,
        lambda job: reading(job.prompt.reply, lambda token: {}),
        lambda job: reading(job.prompt.reply, sure_of_nine, JOINING),
        lambda job: reading(job.prompt.reply[:-1], sure_of_nine),
        lambda job: Reading(tuple(CUT.findall(job.prompt.reply)), (0.0,)),
    ):
        verdicts = asked(SimulationScorer(), materials, answer)
        assert len(verdicts) == 20
        assert all(v.failure and v.value is None and v.answer is None for v in verdicts)
    joined = asked(
        SimulationScorer(),
        materials,
        lambda job: reading(job.prompt.reply, sure_of_nine, JOINING),
    )
    assert "joins the tab" in joined[0].failure


def sure_of_nine(token):
    return sure(9)


def test_values_with_gaps_come_back_from_a_run(tmp_path):
    values = (0.0, math.nan, 10 / 3)
    fields = {"explanation_id": "e", "protocol_id": "p", "scorer": "simulation", "slot": 0}
    verdict = Verdict(
        **fields, example_id="x", prompt_id="q", truth=True, answer=None, value=values
    )
    with Store.open(tmp_path) as store:
        store.add("verdicts", [verdict])
        (found,) = store.table("verdicts")["value"].to_pylist()
    np.testing.assert_array_equal(found, values)


def test_a_judge_that_reads_nothing_and_a_plan_that_draws_too_little_are_refused():
    scorer = SimulationScorer()
    with pytest.raises(InputError, match="log probabilities of a given text"):
        scorer.refuse(PLAN, Capabilities())
    readings = Capabilities(readings=True)
    scorer.refuse(PLAN, readings)
    with pytest.raises(InputError, match="simulation shows 8 examples of each decile"):
        SimulationScorer(SimulationOptions(per_decile=8)).refuse(PLAN, readings)
    with pytest.raises(InputError, match="`negatives` are 20; simulation shows 30"):
        SimulationScorer(SimulationOptions(silent=30)).refuse(PLAN, readings)


def test_without_silent_windows_only_activating_ones_are_read(planted):
    scorer = SimulationScorer(SimulationOptions(per_decile=2, silent=0))
    verdicts = asked(scorer, materials_of(planted, [0]), knowing)
    assert len(verdicts) == 20
    assert all(v.truth for v in verdicts)


def test_every_sign_has_one_line_and_its_tokens_share_a_value():
    shown = window(
        ["", "a\tb", " c", "\n", "🙂", "", "¶", "…\t", ""],
        [0] * 9,
        heads=[0, 1, 2, 3, 4, 4, 6, 7, 8],
        starts=[False, False, True, *[False] * 6],
        live=[False, *[True] * 7, False],
    ).shown
    reply, places = listed(shown)
    assert reply.split("\n")[1:] == ["a⇥b\t…", "¶ c\t…", "⏎\t…", "🙂\t…", "\\¶\t…", "…⇥\t…"]
    assert [place is None for place in places] == [True, *[False] * 7, True]
    assert places[4] == places[5]
    assert all(reply[place - 1 : place + 1] == "\t…" for place in places if place is not None)
    values = expected_values(reading(reply, lambda token: sure(4)), reply, places)
    assert [math.isnan(value) for value in values] == [True, *[False] * 7, True]
    assert values[4] == values[5] == pytest.approx(4 * 10 / 9, abs=1e-3)


@given(
    st.dictionaries(
        st.sampled_from([*"0123456789", " 5", "10", "12", "?", "zero", "٣", "½"]),
        st.floats(-40, 0),
        min_size=1,
    )
)
def test_the_value_is_the_mean_digit_among_digits_alone(alternatives):
    reply, places = listed(window(["x"], [0]).shown)
    given_reading = reading(reply, lambda token: {})
    at = next(i for i, token in enumerate(given_reading.tokens) if token == "…")
    all_of_it = [dict(place) for place in given_reading.alternatives]
    all_of_it[at] = alternatives
    found = expected_values(
        Reading(given_reading.tokens, given_reading.logprobs, tuple(all_of_it)), reply, places
    )
    weights = {
        text: math.exp(value)
        for text, value in alternatives.items()
        if text in {*"0123456789", " 5"}
    }
    if not weights:
        assert isinstance(found, Failure)
        return
    mean = sum(int(text) * weight for text, weight in weights.items()) / sum(weights.values())
    assert found == pytest.approx((mean * 10 / 9,))


def test_tokenizers_that_join_a_tab_and_a_word_do_not_join_it_and_the_placeholder():
    # As GPT-4, Llama 3 and Qwen 2 cut text before merging.
    words = (
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    lines = ["the\tunknown\n\tunknown\n", "x\t…\ny\t0\nz\t9\n"] * 50
    made.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )

    def begins(text):
        return {begin for begin, _ in made.encode(text).offsets}

    reply, places = listed(window([" the", "(", "\n", "  ", "42", " end"], [0] * 6).shown)
    assert set(places) <= begins(reply)
    word = reply.replace("\t…", "\tunknown")
    assert not {at.end() for at in re.finditer("\t", word[12:])} <= {b - 12 for b in begins(word)}


# --- the figures ----------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.floats(0.1, 50), st.floats(-5, 5))
def test_correlation_is_pearsons_over_all_tokens_whatever_the_scale(seed, n, scale, shift):
    rng = np.random.default_rng(seed)
    truth = [rng.exponential(size=rng.integers(2, 9)) for _ in range(n)]
    predicted = [t + rng.normal(size=len(t)) for t in truth]
    clusters = rng.integers(0, n, n)
    found = simulation_figures(predicted, truth, clusters)
    flat = np.concatenate(predicted), np.concatenate(truth)
    expected = np.corrcoef(*flat)[0, 1]
    correlation, explained = found["correlation"], found["explained_variance"]
    assert correlation.value == pytest.approx(expected, abs=1e-9)
    line = np.polynomial.Polynomial.fit(*flat, 1)
    residual = np.var(flat[1] - line(flat[0])) / np.var(flat[1])
    assert explained.value == pytest.approx(1 - residual if expected > 0 else 0.0, abs=1e-9)
    if correlation.low is not None:
        assert -1 <= correlation.low <= correlation.value <= correlation.high <= 1
    moved = simulation_figures([scale * x + shift for x in predicted], truth, clusters)
    assert moved["correlation"].value == pytest.approx(expected, abs=1e-6)


def test_tokens_that_were_not_shown_count_for_nothing():
    rng = np.random.default_rng(0)
    truth = [rng.exponential(size=8) for _ in range(6)]
    predicted = [t + rng.normal(size=8) for t in truth]
    clusters = np.arange(6)
    plain = simulation_figures(predicted, truth, clusters)
    padded = simulation_figures(
        [np.append(x, np.nan) for x in predicted], [np.append(t, 99.0) for t in truth], clusters
    )
    assert plain == padded


def test_constants_and_single_documents_have_reasons_in_place_of_figures():
    flat = [np.full(4, 0.1)] * 3
    rising = [np.arange(4.0)] * 3
    for predicted, truth in ((flat, rising), (rising, flat), ([], [])):
        found = simulation_figures(predicted, truth, np.arange(len(truth)))
        assert found["correlation"].value is None
        assert "all the same" in found["correlation"].reason
    found = simulation_figures(rising, rising, np.zeros(3, int))
    assert found["correlation"].value == pytest.approx(1.0)
    assert (found["correlation"].low, found["correlation"].reason is None) == (None, False)


def test_intervals_cover_a_planted_correlation():
    def drawn(rng, windows):
        truth = np.zeros((windows, 32))
        for row in range(0, windows, 2):
            at = rng.choice(32, rng.integers(1, 4), replace=False)
            truth[row, at] = (1 + row // 2 % 10) * rng.uniform(0.3, 1, len(at))
        predicted = rng.exponential(0.4, truth.shape)
        hit = (truth > 0) & (rng.random(truth.shape) < 0.6)
        return np.where(hit, predicted + rng.uniform(3, 9, truth.shape), predicted), truth

    predicted, truth = drawn(np.random.default_rng(1), 20_000)
    target = np.corrcoef(predicted.ravel(), truth.ravel())[0, 1]
    rng, covered = np.random.default_rng(2), 0
    for _ in range(200):
        found = simulation_figures(*map(list, drawn(rng, 20)), np.arange(20))["correlation"]
        covered += found.low <= target <= found.high
    assert covered >= 0.88 * 200
