"""What verdicts of the other scorers amount to: rows of the table `scores`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from glossator.score.intervals import wilson
from glossator.score.others import OTHERS, Group
from glossator.score.output import output_p_value
from glossator.score.ranking import auroc_figure


def row(example="", *, truth=True, answer=None, failure=None, prompt="p", value=None):
    return {
        "example_id": example,
        "prompt_id": prompt,
        "truth": truth,
        "answer": answer,
        "value": value,
        "failure": failure,
    }


def scores(scorer, verdicts, examples=None):
    found = OTHERS[scorer](Group("e", "p", scorer, verdicts, examples or {}))
    assert all((s.explanation_id, s.protocol_id, s.scorer) == ("e", "p", scorer) for s in found)
    return found


def test_generation_is_the_share_of_texts_that_activate_with_wilsons_interval():
    rows = [row(answer=number < 7) for number in range(10)]
    (score,) = scores("generation", rows)
    assert (score.metric, score.value, score.n, score.n_missing) == ("accuracy", 0.7, 10, 0)
    assert (score.low, score.high) == pytest.approx(wilson(7, 10))


def test_output_is_accuracy_with_the_p_value_of_a_judge_with_likings():
    (score,) = scores("output", [row(answer=number < 4) for number in range(5)])
    assert (score.metric, score.value, score.n) == ("accuracy", 0.8, 5)
    assert score.p_value == output_p_value(4, 5)


@pytest.mark.parametrize("scorer", ["generation", "output"])
def test_missing_verdicts_are_not_wrong_ones_and_too_many_are_no_score(scorer):
    lost = row(failure="timeout")
    (score,) = scores(scorer, [row(answer=True)] * 5 + [lost])
    assert (score.value, score.n, score.n_missing) == (1.0, 5, 1)
    (score,) = scores(scorer, [row(answer=True)] * 5 + [lost] * 2)
    assert score.value is None
    assert score.reason.startswith("2 of 7 ")
    assert score.reason.endswith("are missing, more than 20% (timeout)")
    (score,) = scores(scorer, [row(answer=True)] * 2)
    assert (score.value, score.p_value) == (None, None)
    assert "are needed" in score.reason


def five(prompt, deciles, *, found=True, failure=None):
    """A question of the intruder: four windows of these deciles and a silent one, in place 1."""
    names = [f"{prompt}{place}" for place in range(5)]
    kinds = [deciles[0], 0, *deciles[1:]]
    chosen = 1 if found else 3
    rows = [
        row(
            name,
            truth=kind == 0,
            answer=None if failure else place == chosen,
            failure=failure,
            prompt=prompt,
        )
        for place, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    return rows, {name: {"decile": kind} for name, kind in zip(names, kinds, strict=True)}


def of_questions(questions):
    rows = [row for rows, _ in questions for row in rows]
    examples = {name: held for _, some in questions for name, held in some.items()}
    return scores("intruder", rows, examples)


def test_the_intruder_counts_questions_not_windows_by_decile():
    found = of_questions([five(f"q{d}", [d] * 4, found=d > 4) for d in range(1, 11)])
    assert [(s.decile, s.value, s.n) for s in found] == [
        (0, 0.6, 10),
        *((d, float(d > 4), 1) for d in range(1, 11)),
    ]
    whole = binomtest(6, 10, 0.2, alternative="greater")
    assert found[0].p_value == pytest.approx(whole.pvalue)
    assert (found[0].low, found[0].high) == pytest.approx(wilson(6, 10))


def test_a_quintile_goes_by_its_upper_decile():
    questions = [five(f"q{d}", [d, d + 1, d, d + 1]) for d in (1, 3, 5, 7)] + [five("q9", [9] * 4)]
    found = of_questions(questions)
    assert [s.decile for s in found] == [0, 2, 4, 6, 8, 10]


def test_a_lost_question_is_no_wrong_one():
    questions = [five(f"q{d}", [d] * 4) for d in range(1, 9)]
    found = of_questions([*questions, five("q9", [9] * 4, failure="timeout")])
    assert (found[0].value, found[0].n, found[0].n_missing) == (1.0, 8, 1)
    found = of_questions([*questions, *(five(f"r{i}", [9] * 4, failure="x") for i in range(3))])
    assert found[0].value is None
    assert found[0].reason.startswith("3 of 11 questions are missing")


def simulated(n, silent, lost=0):
    rng = np.random.default_rng(n)
    rows, examples = [], {}
    for number in range(n + silent + lost):
        active = number < n
        truth = rng.exponential(size=8) * active
        name = f"w{number}"
        examples[name] = {"activations": truth.astype("f4"), "document": number // 2, "decile": 1}
        value = tuple(truth + rng.normal(0, 0.3, 8))
        failure = "timeout" if number >= n + silent else None
        rows.append(row(name, truth=active, value=None if failure else value, failure=failure))
    return rows, examples


def test_simulation_says_apart_what_stands_on_activating_windows_alone():
    found = scores("simulation", *simulated(12, 12))
    assert [(s.metric, s.kind, s.n, s.n_positive, s.n_negative) for s in found] == [
        ("correlation", "all", 24, 12, 12),
        ("explained_variance", "all", 24, 12, 12),
        ("correlation", "none", 12, 12, 0),
        ("explained_variance", "none", 12, 12, 0),
    ]
    assert all(s.low < s.value < s.high for s in found)
    assert {s.kind for s in scores("simulation", *simulated(12, 0))} == {"all"}


def test_lost_windows_of_simulation_are_missing():
    found = scores("simulation", *simulated(12, 4, lost=2))
    assert [(s.value is not None, s.n_missing) for s in found] == [(True, 2)] * 2 + [(True, 0)] * 2
    found = scores("simulation", *simulated(12, 4, lost=6))
    assert [s.value is None for s in found] == [True, True, False, False]
    assert found[0].reason == "6 of 22 windows are missing, more than 20% (timeout)"


def test_windows_of_one_document_are_one_draw():
    rows, examples = simulated(20, 0)
    alone = {name: held | {"document": None} for name, held in examples.items()}
    (paired, _), (single, _) = (scores("simulation", rows, held) for held in (examples, alone))
    assert paired.value == single.value
    assert paired.low != single.low


def ranked(active, silent, kinds=("random",), lost=0):
    rng = np.random.default_rng(active + silent)
    rows, examples = [], {}
    for number in range(active + silent + lost):
        truth = number < active
        name = f"w{number}"
        kind = None if truth else kinds[number % len(kinds)]
        examples[name] = {"document": number // 2, "kind": kind, "decile": int(truth)}
        failure = "timeout" if number >= active + silent else None
        value = None if failure else (float(truth) + rng.normal(),)
        rows.append(row(name, truth=truth, value=value, failure=failure))
    return rows, examples


@pytest.mark.parametrize("scorer", ["embedding", "surprisal"])
def test_what_ranks_has_an_auroc_over_documents_of_all_and_of_each_kind(scorer):
    rows, examples = ranked(30, 40, kinds=("random", "peak_token"))
    found = [s for s in scores(scorer, rows, examples) if s.metric == "auroc"]
    assert [(s.kind, s.n_positive, s.n_negative) for s in found] == [
        ("all", 30, 40),
        ("peak_token", 30, 20),
        ("random", 30, 20),
    ]
    values = np.array([r["value"][0] for r in rows])
    truth = np.array([r["truth"] for r in rows])
    figure = auroc_figure(values, truth, np.arange(70) // 2)
    assert (found[0].value, found[0].low, found[0].high) == (figure.value, figure.low, figure.high)
    assert found[0].value > 0.6
    assert len(scores("embedding", *ranked(30, 40))) == 1


def test_too_few_or_too_many_lost_windows_have_no_auroc():
    for arguments, why in (
        ((19, 30), "19 activating windows were answered; 20 are needed"),
        ((20, 9), "9 silent windows were answered; 10 are needed"),
        ((20, 12, ("random",), 4), "4 of 16 silent windows are missing, more than 20% (timeout)"),
    ):
        (score,) = scores("embedding", *ranked(*arguments))
        assert (score.value, score.reason) == (None, why)


def test_surprisal_says_what_the_explanation_takes_off_the_loss():
    rows, examples = ranked(30, 40)
    gain = next(s for s in scores("surprisal", rows, examples) if s.metric == "loss_reduction")
    values = np.array([r["value"][0] for r in rows if r["truth"]])
    assert gain.value == pytest.approx(values.mean())
    # Fifteen documents of two windows are fifteen draws.
    error = values.reshape(15, 2).mean(axis=1).std(ddof=1) / np.sqrt(15)
    assert (gain.high - gain.low) / 2 == pytest.approx(2.1448 * error, rel=1e-4)
