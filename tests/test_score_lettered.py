"""Questions answered by a letter: what a latent promotes, and which window does not belong."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glossator.errors import InputError
from glossator.judges.base import Answer, Failure
from glossator.records import Explanation
from glossator.sampling import NegativePlan, SamplingPlan
from glossator.score.intruder import IntruderOptions, IntruderScorer, moved_marks
from glossator.score.lettered import LETTERS, place_of, share_of
from glossator.score.output import OutputOptions, OutputScorer, output_p_value
from planted import HOOKPOINT, planted_index
from scorer_parts import PLAN, asked, lost, materials_of, window

LATENTS = range(4)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=6)


def lists_of(job):
    return dict(re.findall(r"^([A-E]): (.*)$", job.prompt.user, re.MULTILINE))


def guessing(job):
    assert job.choices == LETTERS
    digest = hashlib.sha256(job.prompt.user.encode()).digest()
    return Answer(LETTERS[int.from_bytes(digest[:8], "big") % 5])


# --- the letter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["C", " C.", "(C)", "**C**", "C: because", '"C"'])
def test_a_letter_is_read_whatever_stands_around_it(text):
    assert place_of(Answer(text)) == 2


@pytest.mark.parametrize("text", ["", "F", "c", "The answer is C", "Cats", "2"])
def test_what_does_not_begin_with_a_letter_is_no_answer(text):
    assert place_of(Answer(text)).kind == "malformed"


def test_a_failure_stays_one_and_probabilities_are_handed_on():
    failure = Failure("timeout")
    assert place_of(Answer(failure=failure)) is failure
    assert share_of(Answer("A"), 0) is None
    assert share_of(Answer("A", probabilities={"A": 0.75, "B": 0.25}), 1) == 0.25


# --- output ---------------------------------------------------------------------------------------


def promoted(n=60):
    """Latent i promotes tokens 100 i … 100 i + 9."""
    return {latent: tuple(range(100 * latent, 100 * latent + 12)) for latent in range(n)}


def output_scorer(lists=None, saw=lambda explainer: False, **options):
    return OutputScorer(
        OutputOptions(**options),
        promoted() if lists is None else lists,
        token_name=lambda token: f"t{token}",
        saw_logits=saw,
    )


def knowing_tokens(job):
    latent = int(re.search(r"latent (\d+)", job.prompt.user)[1])
    own = f"t{100 * latent}"
    (letter,) = (a for a, names in lists_of(job).items() if names.split()[0] == own)
    return Answer(letter, probabilities={a: 0.6 if a == letter else 0.1 for a in LETTERS})


def test_a_judge_who_knows_the_lists_is_always_right_and_one_who_guesses_a_fifth_of_the_time(
    planted,
):
    materials = materials_of(planted, LATENTS)
    verdicts = asked(output_scorer(), materials, knowing_tokens)
    assert len(verdicts) == 5 * len(LATENTS)
    assert all(v.truth and v.answer and v.value[0] == v.value[1] for v in verdicts)
    assert {v.p_yes for v in verdicts} == {0.6}
    many = asked(output_scorer(promoted(1_000), questions=200), materials, guessing)
    share = np.mean([v.answer for v in many])
    assert len(many) == 800
    assert abs(share - 0.2) < 4 * np.sqrt(0.16 / 800)
    assert [v.answer for v in many] == [v.value[0] == v.value[1] for v in many]


def test_the_right_list_stands_anywhere_and_no_other_comes_twice(planted):
    (material,) = materials_of(planted, [2])
    scorer = output_scorer(promoted(1_000), questions=100)
    requests = list(scorer.requests(material, material.explanations[0], "protocol"))
    shown = [lists_of(request.jobs[0]) for request in requests]
    own = "  ".join(f"t{200 + i}" for i in range(10))
    places = Counter(next(a for a, names in lists.items() if names == own) for lists in shown)
    assert len(requests) == 100
    assert set(places) == set(LETTERS)
    assert max(places.values()) < 40
    others = Counter(names for lists in shown for names in lists.values() if names != own)
    assert len(others) == 400
    assert set(others.values()) == {1}


def test_all_explanations_of_a_latent_are_asked_the_same_and_other_seeds_other_questions(planted):
    (material,) = materials_of(planted, [1])
    (other,) = materials_of(planted, [1], seed=1)
    told = [Explanation.of(HOOKPOINT, 1, "someone", words) for words in ("one", "two")]
    scorer = output_scorer()

    def questions(material, explanation):
        found = scorer.requests(material, explanation, "protocol")
        return [lists_of(request.jobs[0]) for request in found]

    assert questions(material, told[0]) == questions(material, told[1])
    assert questions(material, told[0]) != questions(other, told[0])
    ids = [r.prompt_id for e in told for r in scorer.requests(material, e, "protocol")]
    assert len(set(ids)) == 10


def test_lists_that_share_half_of_their_tokens_are_not_told_apart(planted):
    (material,) = materials_of(planted, [0])
    twins = {latent: tuple(range(latent // 2, latent // 2 + 10)) for latent in range(12)}
    apart = {latent: tuple(range(1_000 * latent, 1_000 * latent + 10)) for latent in range(12, 16)}
    (request,) = output_scorer(twins | apart, questions=1).requests(
        material, material.explanations[0], "protocol"
    )
    rows = [names.split() for names in lists_of(request.jobs[0]).values()]
    own = next(row for row in rows if row[0] == "t0")
    assert all(len({*row} & {*own}) < 5 for row in rows if row is not own)


def test_an_explainer_that_saw_the_logits_is_refused_without_a_question(planted):
    materials = materials_of(planted, [0])
    saw = {"saw": lambda explainer: explainer == "planted"}

    def never(job):
        raise AssertionError

    verdicts = asked(output_scorer(**saw), materials, never)
    assert len(verdicts) == 5
    assert all(v.answer is None and "saw the tokens" in v.failure for v in verdicts)
    verdicts = asked(output_scorer(despite_logits=True, **saw), materials, knowing_tokens)
    assert all(v.answer for v in verdicts)


def test_latents_and_layers_without_lists_are_not_asked_about(planted):
    materials = materials_of(planted, [0])
    lists = promoted()
    del lists[0]
    assert asked(output_scorer(lists), materials, knowing_tokens) == []
    with pytest.raises(InputError, match="4 latents have lists of promoted tokens, 5 are needed"):
        output_scorer(promoted(4)).refuse(PLAN, None)
    output_scorer().refuse(PLAN, None)
    few = asked(output_scorer(promoted(10)), materials, knowing_tokens)
    assert len(few) == 2  # nine other lists are two questions' worth


def test_a_failed_question_is_missing(planted):
    materials = materials_of(planted, [0])
    for answer in (lost, lambda job: Answer("none of them")):
        verdicts = asked(output_scorer(), materials, answer)
        assert len(verdicts) == 5
        assert all(v.failure and v.answer is None and v.value is None for v in verdicts)


@pytest.mark.parametrize("n", [1, 3, 5, 8])
def test_the_p_value_is_that_of_a_judge_with_a_liking_of_its_own(n):
    liking = np.random.default_rng(n).random((200_000, 1 + 4 * n))
    rivals = liking[:, 1:].reshape(-1, n, 4).max(axis=2)
    right = (liking[:, :1] > rivals).sum(axis=1)
    for k in range(n + 1):
        assert output_p_value(k, n) == pytest.approx((right >= k).mean(), abs=0.006)
    assert output_p_value(5, 5) == pytest.approx(1 / 21)


# --- intruder -------------------------------------------------------------------------------------


def seeing(job):
    """The passage in whose marks no word of the latent stands that most marks hold."""
    latent = re.search(r"latent (\d+)", job.prompt.label)[1]
    (letter,) = (
        a
        for a, line in lists_of(job).items()
        if not any(f"hit{latent}d" in run for run in re.findall("<<(.*?)>>", line))
    )
    return Answer(letter, probabilities={a: 0.8 if a == letter else 0.05 for a in LETTERS})


def test_a_judge_who_sees_what_is_alike_finds_every_intruder(planted):
    materials = materials_of(planted, LATENTS)
    verdicts = asked(IntruderScorer(), materials, seeing)
    by_prompt = {}
    for verdict in verdicts:
        by_prompt.setdefault(verdict.prompt_id, []).append(verdict)
    assert len(by_prompt) == 10 * len(LATENTS)
    decile = {w.example_id: w.decile for m in materials for w in m.windows}
    for five in by_prompt.values():
        assert [v.slot for v in five] == [0, 1, 2, 3, 4]
        assert [v.truth for v in five] == [v.answer for v in five]
        (intruder,) = (v for v in five if v.truth)
        assert decile[intruder.example_id] == 0
        assert intruder.p_yes == 0.8
        assert len({decile[v.example_id] for v in five if not v.truth}) == 1
        assert all(v.marks for v in five)
    shown = Counter(v.example_id for v in verdicts)
    assert set(shown.values()) == {1}


def test_a_judge_who_guesses_finds_a_fifth(planted):
    plan = SamplingPlan(per_decile=12, negatives=(NegativePlan(kind="random", n=30),))
    materials = materials_of(planted, range(6), plan=plan)
    verdicts = asked(IntruderScorer(IntruderOptions(questions=3)), materials, guessing)
    found = [v.answer for v in verdicts if v.truth]
    assert len(found) > 160
    assert abs(np.mean(found) - 0.2) < 4 * np.sqrt(0.16 / 160)


def test_a_judge_who_sees_the_marks_alone_finds_a_fifth(planted):
    """Number, lengths and places of marks do not give the intruder away."""
    plan = SamplingPlan(per_decile=12, negatives=(NegativePlan(kind="random", n=30),))
    materials = materials_of(planted, range(6), plan=plan)
    found = Counter()
    for material in materials:
        scorer = IntruderScorer(IntruderOptions(questions=3))
        for request in scorer.requests(material, material.explanations[0], "protocol"):
            places = np.array([np.mean(item.marks) for item in request.items])
            sizes = np.array([len(item.marks) for item in request.items])
            intruder = next(i for i, item in enumerate(request.items) if item.truth)
            odd = np.abs(places - np.median(places)) + 10 * np.abs(sizes - np.median(sizes))
            found[int(np.argmax(odd)) == intruder] += 1
    assert found.total() > 160
    assert abs(found[True] / found.total() - 0.2) < 4 * np.sqrt(0.16 / 160)


def test_quintiles_do_with_fewer_windows_of_a_decile(planted):
    plan = SamplingPlan(per_decile=3, negatives=(NegativePlan(kind="random", n=10),))
    by_decile = IntruderScorer()
    with pytest.raises(InputError, match="intruder shows 4 examples of each decile"):
        by_decile.refuse(plan, None)
    scorer = IntruderScorer(IntruderOptions(strata="quintile"))
    scorer.refuse(plan, None)
    verdicts = asked(scorer, materials_of(planted, [0], plan=plan), seeing)
    assert len(verdicts) == 25
    with pytest.raises(InputError, match="`negatives` are 10; intruder shows 20"):
        IntruderScorer(IntruderOptions(strata="quintile", questions=4)).refuse(
            plan.model_copy(update={"per_decile": 8}), None
        )


def test_without_a_silent_window_left_there_is_no_question(planted):
    plan = SamplingPlan(per_decile=4, negatives=(NegativePlan(kind="random", n=3),))
    assert len(asked(IntruderScorer(), materials_of(planted, [0], plan=plan), seeing)) == 15


def test_a_negative_in_which_the_latent_is_active_is_no_intruder(planted):
    (material,) = materials_of(planted, [0])
    activating = next(w for w in material.windows if w.decile == 5)
    unfiltered = replace(activating, decile=0, example_id="unfiltered")
    material = replace(material, windows=(unfiltered, *material.windows))
    verdicts = asked(IntruderScorer(), [material], seeing)
    assert len(verdicts) == 50
    assert "unfiltered" not in {v.example_id for v in verdicts}


def test_a_lost_question_is_five_missing_verdicts(planted):
    verdicts = asked(IntruderScorer(), materials_of(planted, [0]), lost)
    assert len(verdicts) == 50
    assert all(v.failure and v.answer is None for v in verdicts)


@given(st.data())
def test_moved_marks_keep_their_pattern_and_stand_on_silent_tokens(data):
    n = data.draw(st.integers(1, 12))
    active = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    live = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    pattern = sorted(data.draw(st.sets(st.integers(0, 11), min_size=1, max_size=4)))
    made = window(["x"] * n, [float(a) for a in active], live=live)
    free = {at for at in range(n) if not active[at] and live[at]}
    fits = [s for s in range(-12, 13) if {at + s for at in pattern} <= free]
    found = moved_marks(made, pattern)
    if not fits:
        assert found is None
        return
    step = found[0] - pattern[0]
    assert found == tuple(at + step for at in pattern)
    assert set(found) <= free
    assert abs(step) == min(map(abs, fits))
