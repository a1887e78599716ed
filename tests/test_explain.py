from __future__ import annotations

import asyncio
import re

import pytest

from glossator.errors import InputError, JudgeError
from glossator.explain import Delimited, aexplain, explain
from glossator.explain.explainers import explanation_text
from glossator.judges.base import Answer, Failure
from glossator.judges.openai_server import OpenAIJudge
from glossator.sampling import ExplainPlan, SamplingPlan
from judge_servers import ChatServer, Reply
from planted import HOOKPOINT, planted_index

LATENTS = 4


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=LATENTS, silent=1)


async def at_once(seconds):
    await asyncio.sleep(0)


def explained_by(planted, reply, latents=range(LATENTS), *, judge_options=None, **options):
    index, text = planted
    with ChatServer(reply) as server:
        judge = OpenAIJudge(server.url, "known", sleep=at_once, **(judge_options or {}))
        options.setdefault("explainer", "delimited")
        result = explain(index, latents, judge=judge, text=text, **options)
        return result, server.asked


def reading(request):
    """What an honest explainer finds: the latent named in every marked run."""
    runs = re.findall(r"<<(.*?)>>", request.question)
    named = {re.search(r"(?:hit|by|far)(\d+)", run)[1] for run in runs}
    return Reply(f"The runs agree.\nExplanation: latent {' and '.join(sorted(named))}")


def test_an_explanation_arrives_for_each_latent_from_its_marked_tokens(planted):
    result, asked = explained_by(planted, reading, [2, 0, 3, 0])
    assert [e.latent for e in result.explanations] == [2, 0, 3]
    assert [e.text for e in result.explanations] == ["latent 2", "latent 0", "latent 3"]
    assert {e.explainer for e in result.explanations} == {"delimited:known"}
    assert {e.hookpoint for e in result.explanations} == {HOOKPOINT}
    assert result.failures == ()
    assert (result.usage.stage, result.usage.requests) == ("explain", 3)
    assert result.usage.prompt_tokens > 0
    assert len(asked) == 3


def test_marks_stand_on_tokens_above_the_threshold_and_on_no_others(planted):
    for threshold, words in [(0.3, 2), (0.6, 1), (0.05, 3)]:
        explainer = Delimited(threshold=threshold)
        _, asked = explained_by(planted, reading, [1], explainer=explainer)
        lines = asked[0].examples
        assert len(lines) == 40
        for line in lines:
            (run,) = re.findall(r"<<(.*?)>>", line)
            expected = [r"hit1d\d+", "by1", "far1"][:words]
            assert re.fullmatch(" ".join(expected), run)


def test_the_examples_are_the_explain_sides_and_follow_the_plan(planted):
    index, _ = planted
    plan = SamplingPlan(explain=ExplainPlan(kind="top", n=7))
    _, asked = explained_by(planted, reading, [0], plan=plan)
    assert len(asked[0].examples) == 7
    assert all("hit0d10" in line for line in asked[0].examples)
    assert (index.sample([0], plan).split == 0).sum() == 7


def test_settings_are_part_of_the_explainers_name(planted):
    result, _ = explained_by(planted, reading, [0], explainer=Delimited(threshold=0.6))
    assert result.explanations[0].explainer == "delimited(threshold=0.6):known"


def test_each_explanation_is_handed_over_as_it_arrives(planted):
    kept = []
    result, _ = explained_by(planted, reading, sink=kept.append)
    assert sorted(e.latent for e in kept) == list(range(LATENTS))
    assert set(kept) == set(result.explanations)


@pytest.mark.parametrize(
    ("reply", "reason", "transient"),
    [
        (Reply("Explanation: tokens that", finish="length"), "truncated", False),
        (Reply("Explanation:  "), "empty", False),
        (Reply(" "), "empty", False),
        (Reply(status=400, error="too long"), "rejected", False),
        (Reply(status=503), "server_error", True),
    ],
)
def test_a_failure_is_recorded_and_is_no_explanation(planted, reply, reason, transient):
    result, _ = explained_by(planted, lambda _: reply, [1], judge_options={"attempts": 2})
    assert result.explanations == ()
    (failure,) = result.failures
    assert failure.latent == 1
    assert failure.reason.startswith(reason)
    assert failure.transient == transient


def test_a_latent_without_examples_is_a_failure_that_costs_no_request(planted):
    result, asked = explained_by(planted, reading, [LATENTS, 0])
    assert [(f.latent, f.reason) for f in result.failures] == [
        (LATENTS, "no examples on the explain side")
    ]
    assert len(asked) == len(result.explanations) == 1


def test_a_judge_that_dies_keeps_what_was_handed_over(planted):
    kept = []
    dying = lambda r: reading(r) if r.number < 3 else Reply(reset=True)  # noqa: E731
    options = {"attempts": 1, "dead_after": 1, "concurrency": 1}
    with pytest.raises(JudgeError):
        explained_by(planted, dying, judge_options=options, sink=kept.append)
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Explanation: numbers", "numbers"),
        ("explanation:\n numbers\n in words ", "numbers in words"),
        ("First, Explanation: no.\nExplanation: yes", "yes"),
        ('Explanation: "quoted"', "quoted"),
        ("just words", "just words"),
        ('{"explanation": "numbers\n in words"}', "numbers in words"),
        ('```json\n{"explanation": "numbers"}\n```', "numbers"),
        ('Here it is: {"explanation": "numbers"}', "numbers"),
        ("text in {braces}, of any sort", "text in {braces}, of any sort"),
    ],
)
def test_the_explanation_is_the_json_field_or_what_follows_the_marker_or_the_whole(said, expected):
    assert explanation_text(Answer(said)) == expected


def test_a_failed_answer_is_no_explanation():
    failure = Failure("timeout")
    assert explanation_text(Answer(failure=failure)) is failure


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explainer": "oracle"}, "explainer `oracle`: unknown; known are rules, delimited, cot"),
        ({"judge": None}, "needs a judge"),
        ({"text": None}, "`text` is missing"),
        ({"explainer": "rules", "text": None}, "`text` is missing"),
    ],
)
def test_what_cannot_be_explained_is_refused(planted, options, message):
    index, text = planted
    judge = OpenAIJudge("http://127.0.0.1:9/v1", "known")
    given = {"explainer": "delimited", "judge": judge, "text": text, **options}
    with pytest.raises(InputError, match=message):
        explain(index, [0], **given)


def test_rules_come_by_the_same_door_and_need_no_judge(planted):
    index, text = planted
    kept = []
    result = explain(index, [1, LATENTS], explainer="rules", text=text, sink=kept.append)
    assert [(e.latent, e.explainer) for e in result.explanations] == [(1, "rules")]
    assert kept == list(result.explanations)
    assert [f.latent for f in result.failures] == [LATENTS]
    assert result.usage.requests == 0


def test_the_async_twin_learns_the_same_rules(planted):
    index, text = planted
    kept = []

    async def whole():
        return await aexplain(index, [0, 1], explainer="rules", text=text, sink=kept.append)

    result = asyncio.run(whole())
    assert kept == list(result.explanations)
    assert result.explanations == explain(index, [0, 1], explainer="rules", text=text).explanations


def test_what_the_sink_raises_reaches_the_caller_of_the_async_twin(planted):
    index, text = planted

    def full(explanation):
        raise InputError("disk full")

    with pytest.raises(InputError, match="disk full"):
        asyncio.run(aexplain(index, [0], explainer="rules", text=text, sink=full))
