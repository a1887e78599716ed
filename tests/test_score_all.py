"""All scorers end to end: one queue, judges with a known truth, failures that are never scores."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from glossator.errors import InputError
from glossator.judges.base import Answer, Capabilities, Job, Reading
from glossator.records import Explanation
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from glossator.score import score
from judge_servers import coin
from planted import HOOKPOINT, planted_explanations, planted_index
from scorer_parts import lost
from test_score_generation import by_word
from test_score_lettered import guessing as any_letter
from test_score_lettered import knowing_tokens, promoted, seeing
from test_score_read import Encoder, knows, reader
from test_score_simulation import guessing as any_digit
from test_score_simulation import knowing as knowing_digits

LATENTS = range(4)
ASKING = ("simulation", "generation", "output", "intruder", "surprisal")
MAIN = {
    "simulation": "correlation",
    "generation": "accuracy",
    "output": "accuracy",
    "intruder": "accuracy",
    "embedding": "auroc",
    "surprisal": "auroc",
}
PLAN = SamplingPlan(
    explain=ExplainPlan(n=0), per_decile=5, negatives=(NegativePlan(kind="random", n=20),)
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=6)


class Teacher:
    """A judge that answers each scorer's prompts by a function of the job."""

    name, concurrency, notes = "teacher", 8, ()
    capabilities = Capabilities(choices=True, schemas=True, logprobs=True, readings=True)

    def __init__(self, answers, failing=0.0):
        self.answers, self.failing = answers, failing
        self.asked = Counter()

    async def check(self):
        pass

    async def close(self):
        pass

    def put(self, job):
        scorer = job.prompt.label.split(", ")[1]
        self.asked[scorer] += 1
        if coin(self.failing, job.prompt.user, job.prompt.reply):
            return lost(job)
        return self.answers[scorer](job)

    async def answer(self, prompts, *, choices=None, schema=None, max_tokens, logprobs=False):
        return [self.put(Job(None, one, max_tokens, schema, choices)) for one in prompts]

    async def read(self, prompts, *, alternatives=0):
        return [self.put(Job(None, one, 1, alternatives=alternatives)) for one in prompts]


def writing(job):
    latent = re.search(r"latent (\d+)", job.prompt.user)[1]
    return Answer(json.dumps([f"text {number} with hit{latent}" for number in range(10)]))


def writing_of_nothing(job):
    return Answer(json.dumps([f"text {number}" for number in range(10)]))


KNOWING = {
    "simulation": knowing_digits,
    "generation": writing,
    "output": knowing_tokens,
    "intruder": seeing,
    "surprisal": reader(knows),
}
GUESSING = {
    "simulation": any_digit,
    "generation": writing_of_nothing,
    "output": any_letter,
    "intruder": any_letter,
    "surprisal": reader(lambda question, reply: coin(0.5, question, reply)),
}


def noise(texts):
    return np.array([[coin(0.5, text, axis) - 0.5 for axis in range(16)] for text in texts])


def needs(encoder):
    return {
        "activations": by_word,
        "promoted": promoted(),
        "token_name": lambda token: f"t{token}",
        "saw_logits": lambda explainer: explainer == "logits",
        "model": encoder,
    }


def scored(planted, judge, *, encoder=None, scorers=(*ASKING, "embedding"), **options):
    index, text = planted
    return score(
        index,
        options.pop("explanations", planted_explanations(LATENTS)),
        judge=judge,
        text=text,
        scorers=scorers,
        plan=PLAN,
        needs=needs(encoder or Encoder()),
        **options,
    )


def main_values(result):
    found = {}
    for row in result.scores.to_pylist():
        if row["metric"] == MAIN[row["scorer"]] and (row["kind"], row["decile"]) == ("all", 0):
            found.setdefault(row["scorer"], []).append(row["value"])
    return found


def p_values(result):
    """Of the rankings: so large an AUROC if nothing were known."""
    rows = result.scores.to_pylist()
    return [row["p_value"] for row in rows if (row["metric"], row["kind"]) == ("auroc", "all")]


def test_a_judge_who_knows_the_truth_scores_near_one_by_every_scorer(planted):
    result = scored(planted, Teacher(KNOWING))
    found = main_values(result)
    assert set(found) == set(MAIN)
    for scorer, values in found.items():
        assert len(values) == len(LATENTS), scorer
        floor = {"simulation": 0.7, "embedding": 0.85}.get(scorer, 0.99)
        assert min(values) > floor, scorer
    ranked = p_values(result)
    assert len(ranked) == 2 * len(LATENTS)
    assert max(ranked) < 0.001
    assert result.missing == 0
    known = set(result.examples["example_id"].to_pylist())
    shown = {v["example_id"] for v in result.verdicts.to_pylist() if v["scorer"] != "output"}
    assert shown <= known
    assert Counter(result.examples["kind"].to_pylist())["generated"] == 10 * len(LATENTS)


def test_a_judge_who_guesses_is_at_chance_by_every_scorer(planted):
    result = scored(
        planted,
        Teacher(GUESSING),
        encoder=noise,
        explanations=planted_explanations(range(6)),
    )
    found = {scorer: float(np.mean(values)) for scorer, values in main_values(result).items()}
    assert abs(found["simulation"]) < 0.1
    assert found["generation"] == 0.0
    assert abs(found["output"] - 0.2) < 4 * np.sqrt(0.16 / 30)
    assert abs(found["intruder"] - 0.2) < 4 * np.sqrt(0.16 / 60)
    assert abs(found["embedding"] - 0.5) < 0.1
    assert abs(found["surprisal"] - 0.5) < 0.1
    assert np.mean(p_values(result)) > 0.2
    assert result.missing == 0


def test_requests_that_fail_are_missing_and_the_others_are_as_good_as_ever(planted):
    whole = scored(planted, Teacher(KNOWING))
    broken = Teacher(KNOWING, failing=0.1)
    result = scored(planted, broken)
    assert result.missing > 0
    rows = {
        (r["explanation_id"], r["prompt_id"], r["slot"]): r for r in result.verdicts.to_pylist()
    }
    for row in whole.verdicts.to_pylist():
        other = rows.pop((row["explanation_id"], row["prompt_id"], row["slot"]))
        if other["failure"] is not None:
            assert (other["answer"], other["value"], other["p_yes"]) == (None, None, None)
        else:
            assert other["answer"] == row["answer"]
            np.testing.assert_array_equal(other["value"], row["value"])
    assert not rows
    for scorer, values in main_values(result).items():
        for value in values:
            floor = {"simulation": 0.6, "embedding": 0.85}.get(scorer, 0.99)
            assert value is None or value > floor, scorer


def test_where_nothing_is_answered_there_are_reasons_and_no_scores(planted):
    result = scored(planted, Teacher(KNOWING, failing=1.0), scorers=ASKING)
    assert result.missing == len(result.verdicts)
    assert result.scores["value"].null_count == len(result.scores)
    assert all("missing" in row["reason"] for row in result.scores.to_pylist())


def test_what_is_stored_is_not_asked_again_and_what_was_lost_is(planted):
    broken = Teacher(KNOWING, failing=0.1)
    first = scored(planted, broken)
    healed = Teacher(KNOWING)
    second = scored(planted, healed, stored=first.verdicts)
    assert second.missing == 0
    lost_prompts = {
        (v["scorer"], v["prompt_id"]) for v in first.verdicts.to_pylist() if v["failure"]
    }
    per_request = {"surprisal": 2}
    expected = Counter()
    for scorer, _ in lost_prompts:
        expected[scorer] += per_request.get(scorer, 1)
    assert healed.asked == expected
    whole = scored(planted, Teacher(KNOWING))
    order = [
        ("explanation_id", "ascending"),
        ("scorer", "ascending"),
        ("metric", "ascending"),
        ("kind", "ascending"),
        ("decile", "ascending"),
    ]
    assert second.scores.sort_by(order).to_pylist() == whole.scores.sort_by(order).to_pylist()


def test_an_explainer_that_saw_the_logits_has_a_reason_and_was_not_asked(planted):
    told = [Explanation.of(HOOKPOINT, 0, "logits", "latent 0")]
    judge = Teacher(KNOWING)
    result = scored(planted, judge, scorers=("output",), explanations=told)
    assert judge.asked.total() == 0
    (row,) = result.scores.to_pylist()
    assert row["value"] is None
    assert "the explainer saw the tokens that are asked for" in row["reason"]


def test_two_explanations_of_a_latent_share_one_intruder_and_the_windows(planted):
    told = [Explanation.of(HOOKPOINT, 1, name, "latent 1") for name in ("one", "two")]
    judge = Teacher(KNOWING)
    result = scored(planted, judge, explanations=told)
    assert judge.asked["intruder"] == 10
    (none,) = result.explanations
    of_intruder = [v for v in result.verdicts.to_pylist() if v["scorer"] == "intruder"]
    assert {v["explanation_id"] for v in of_intruder} == {none.explanation_id}
    for scorer in ("simulation", "surprisal", "embedding"):
        shown = [
            {
                v["example_id"]
                for v in result.verdicts.to_pylist()
                if (v["scorer"], v["explanation_id"]) == (scorer, one.explanation_id)
            }
            for one in told
        ]
        assert shown[0] == shown[1]


def test_embedding_alone_needs_no_judge_and_the_others_say_that_they_do(planted):
    result = scored(planted, None, scorers=("embedding",))
    assert min(main_values(result)["embedding"]) > 0.85
    assert result.protocol.judge == ""
    for scorer in ASKING:
        with pytest.raises(InputError, match="judge"):
            scored(planted, None, scorers=(scorer,))


def test_a_judge_that_answers_out_of_turn_or_of_other_words_is_not_believed(planted):
    def other_words(job):
        return Reading(("something", " else"), (-1.0, -1.0), ({}, {}))

    lying = {
        "simulation": other_words,
        "surprisal": other_words,
        "output": lambda job: Answer("Z"),
        "intruder": lambda job: Answer("I would say the third"),
        "generation": lambda job: Answer("Here are ten texts: …"),
    }
    result = scored(planted, Teacher(lying), scorers=ASKING)
    assert result.missing == len(result.verdicts) > 0
    assert {v["failure"].split(":")[0] for v in result.verdicts.to_pylist()} == {"malformed"}
    assert result.scores["value"].null_count == len(result.scores)
