"""Refine: on the explain side alone, the text climbs from too broad or too narrow to the truth."""

from __future__ import annotations

import itertools
import re

import pytest

from asked_judges import Knowing, checked, explained_as
from glossator.explain import Refine, explain
from glossator.explain.drawing import Drawing
from glossator.explain.refine import verdict
from glossator.judges.base import Answer, Failure
from stop_world import documents_in, fits, on_explain_side, stop_index

TRUTH = "stop after don't or won't"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return stop_index(tmp_path_factory.mktemp("stop") / "index")


def refined(world, texts, *, latents=(0,), check=None, **settings):
    """Explained by a judge whose n-th text of a latent is `texts(n, prompt)`."""
    index, text = world
    tries = {}

    def reply(prompt, choices):
        asked = checked(prompt)
        if asked is not None:
            assert choices == ("yes", "no")
            return check(*asked) if check else "yes" if fits(*asked) else "no"
        number = tries[prompt.group] = tries.get(prompt.group, 0) + 1
        said = texts(number, prompt.user)
        return said if isinstance(said, Failure) else explained_as(said)

    judge = Knowing(reply)
    explained = explain(index, latents, explainer=Refine(**settings), judge=judge, text=text)
    return explained, judge


def honest(number, prompt, first):
    """Begins with `first`, and then mends what the counterexamples show."""
    if number == 1:
        return first
    words = {
        word
        for line in re.findall(r"^Missed: (.*)$", prompt, re.MULTILINE)
        for word in re.findall(r"(\S+) <<stop>>", line)
    }
    words |= set(re.findall(r"(don't|won't)", first))
    if "Fitted though silent" in prompt or words:
        examples = re.findall(r"^Example \d+: .*?(\S+) <<stop>>", prompt, re.MULTILINE)
        words |= set(examples)
    return f"stop after {' or '.join(sorted(words))}"


@pytest.mark.parametrize("first", ["stop", "stop after don't", "stop after won't", "anything"])
def test_a_text_that_is_too_broad_or_too_narrow_is_mended(world, first):
    explained, _ = refined(world, lambda n, prompt: honest(n, prompt, first))
    (explanation,) = explained.explanations
    assert explanation.text == TRUTH
    assert explanation.explainer == "refine:known"
    begun, mended = explained.attempts
    assert (begun.text, begun.kept) == (first, False)
    assert (mended.text, mended.kept, mended.score) == (TRUTH, True, 1.0)
    # Half of the silent passages hold a peak's token: `stop` fits those, and right are the others.
    expected = {"stop": 0.75, "anything": 0.5}.get(first, 0.75)
    assert begun.score == pytest.approx(expected, abs=0.15)
    broad = first in ("stop", "anything")
    assert ("Fitted though silent:" in begun.note) == broad
    assert ("Missed:" in begun.note) == (not broad)


def test_counterexamples_are_what_they_are_called(world):
    explained, judge = refined(
        world, lambda n, prompt: ["stop after don't", "stop", "nothing"][n - 1], rounds=2
    )
    narrow, broad, nothing = explained.attempts
    for line in re.findall(r"^Missed: (.*)$", narrow.note, re.MULTILINE):
        assert "won't <<stop>>" in line
    lines = re.findall(r"^Fitted though silent: (.*)$", broad.note, re.MULTILINE)
    assert lines
    for line in lines:
        assert re.search(r"\bstop\b", line)
        assert not fits(TRUTH, line)
    assert nothing.score == 0.5
    last = [prompt.user for prompt in judge.asked if checked(prompt) is None][-1]
    assert f"Description 1 (balanced accuracy {narrow.score:.2f}): stop after don't" in last
    assert f"Description 2 (balanced accuracy {broad.score:.2f}): stop" in last
    assert narrow.note in last
    assert broad.note in last


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_it_tries_as_often_as_asked_and_each_text_is_kept(world, rounds):
    texts = itertools.cycle(["stop", "anything", "stop after don't"])
    given = []

    def wrong(number, prompt):
        given.append(next(texts))
        return given[-1]

    explained, judge = refined(world, wrong, rounds=rounds)
    assert [one.text for one in explained.attempts] == given
    assert [one.number for one in explained.attempts] == list(range(1, rounds + 2))
    assert len([p for p in judge.asked if checked(p) is None]) == rounds + 1
    best = max(one.score for one in explained.attempts)
    (kept,) = [one for one in explained.attempts if one.kept]
    assert kept.score == best
    assert kept is next(one for one in explained.attempts if one.score == best)
    assert explained.explanations[0].text == kept.text


def test_it_stops_where_nothing_is_wrong(world):
    explained, judge = refined(world, lambda n, prompt: TRUTH, rounds=5)
    assert [one.score for one in explained.attempts] == [1.0]
    assert len([p for p in judge.asked if checked(p) is None]) == 1


def test_a_later_text_that_is_worse_is_not_kept(world):
    explained, _ = refined(
        world, lambda n, prompt: ["stop after won't", "nothing", "anything"][n - 1]
    )
    assert explained.explanations[0].text == "stop after won't"
    assert [one.kept for one in explained.attempts] == [True, False, False]


def test_the_score_side_is_never_seen_and_what_scores_is_never_shown(world):
    explained, judge = refined(
        world,
        lambda n, prompt: ["stop", "stop after don't", "stop after won't"][n - 1],
        latents=[0, 1],
        rounds=2,
    )
    assert len(explained.explanations) == 2
    for group in {prompt.group for prompt in judge.asked}:
        asked = [prompt for prompt in judge.asked if prompt.group == group]
        texts = [prompt.user for prompt in asked if checked(prompt) is None]
        checks = [documents_in(prompt.user) for prompt in asked if checked(prompt)]
        shown = [documents_in(text) for text in texts]
        everything = set().union(*shown, *checks)
        assert on_explain_side(everything)
        # Documents that are checked for every text are those that score.
        scoring = [
            {
                number
                for prompt in asked
                if checked(prompt) and checked(prompt)[0] == text
                for number in documents_in(prompt.user)
            }
            for text in ("stop", "stop after don't", "stop after won't")
        ]
        scoring = set.intersection(*scoring)
        assert scoring
        assert not scoring & set().union(*shown)
        # Each round's counterexamples are new.
        assert not (shown[1] - shown[0]) & (shown[2] - shown[1])


def test_each_part_has_documents_of_its_own_and_passages_of_both_sorts(world):
    index, text = world
    wants = Refine(rounds=2).wants(None)
    drawing = Drawing(index, text, wants, hookpoint="h")
    view, rare, dense, dead = drawing.views([0, 1, 2, 3])
    assert dead.reason == "no examples on the explain side"
    for one in (view, rare, dense):
        groups = [one.passages, *one.parts]
        documents = [
            {n for passage in group for n in documents_in(passage.shown.text)} for group in groups
        ]
        assert on_explain_side(set().union(*documents))
        for a, b in itertools.combinations(documents, 2):
            assert not a & b
    assert len(view.passages) == 40
    for part, (active, silent) in zip(view.parts, [(20, 20), (10, 10), (10, 10)], strict=True):
        is_active = [bool(passage.activations.any()) for passage in part]
        assert (sum(is_active), len(part) - sum(is_active)) == (active, silent)
        for passage in part:
            truly = index.activations(0, [passage.start], index.window)[0]
            assert (truly == passage.activations).all()
    assert all(passage.activations.any() for part in dense.parts for passage in part)


def test_a_latent_that_cannot_be_checked_keeps_its_first_text(world):
    explained, judge = refined(world, lambda n, prompt: "anything", latents=[2])
    (only,) = explained.attempts
    assert (only.text, only.score, only.kept) == ("anything", None, True)
    assert len([p for p in judge.asked if checked(p) is None]) == 1


def test_a_failed_check_is_missing_and_no_verdict(world):
    dropped = itertools.count()

    def half(description, passage):
        if next(dropped) % 2:
            return Failure("malformed")
        return "yes" if fits(description, passage) else "no"

    explained, _ = refined(world, lambda n, prompt: TRUTH, check=half)
    assert explained.attempts[0].score == 1.0
    explained, _ = refined(world, lambda n, prompt: TRUTH, check=lambda *_: "perhaps")
    assert [one.score for one in explained.attempts] == [None]
    assert explained.explanations[0].text == TRUTH


def test_what_the_server_is_at_fault_for_is_asked_again_on_another_day(world):
    explained, _ = refined(
        world, lambda n, prompt: TRUTH, check=lambda *_: Failure("timeout", "slow")
    )
    assert explained.explanations == ()
    (failure,) = explained.failures
    assert (failure.reason, failure.transient) == ("timeout: slow", True)
    explained, _ = refined(world, lambda n, prompt: "stop" if n == 1 else Failure("rate_limited"))
    assert explained.failures[0].transient


def test_a_later_try_that_is_cut_off_leaves_the_best_so_far(world):
    explained, _ = refined(world, lambda n, prompt: "stop" if n == 1 else Failure("truncated"))
    assert explained.explanations[0].text == "stop"
    first, second = explained.attempts
    assert (first.kept, second.kept) == (True, False)
    assert (second.text, second.note) == ("", "truncated")
    explained, _ = refined(world, lambda n, prompt: Failure("truncated"))
    assert [(f.reason, f.transient) for f in explained.failures] == [("truncated", False)]


def test_another_judge_checks_where_one_is_named(world):
    index, text = world
    weak = Knowing(lambda p, choices: "yes" if fits(*checked(p)) else "no", name="weak")
    strong = Knowing(lambda prompt, choices: explained_as("stop"))
    explained = explain(
        index, [0], explainer=Refine(rounds=1), judge=strong, chooser=weak, text=text
    )
    assert explained.explanations[0].explainer == "refine(rounds=1,chooser=weak):known"
    assert len(strong.asked) == 2
    assert len(weak.asked) == 20 + 20 + 20 + 40
    assert {prompt.group for prompt in weak.asked} == {"model.layers.3/0"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [("yes", True), ("No", False), (" Yes.", True), ('"no"', False), ("perhaps", None), ("", None)],
)
def test_a_check_is_answered_yes_or_no_or_not_at_all(said, expected):
    answer = verdict(Answer(said))
    assert isinstance(answer, Failure) if expected is None else answer is expected
