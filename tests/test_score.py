from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow as pa
import pytest

from glossator.errors import InputError, JudgeError
from glossator.judges.openai_server import OpenAIJudge
from glossator.records import TABLES, Explanation
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from glossator.score import (
    ScoringOptions,
    ascore,
    firing_rates,
    score,
    scores_from,
    settled,
    summary,
)
from glossator.score.detection import DetectionOptions
from glossator.score.fuzzing import FuzzingOptions
from judge_servers import ChatServer, Reply, coin
from planted import (
    HOOKPOINT,
    answering,
    description_of,
    erring,
    planted_explanations,
    planted_index,
    truth_of,
)

LATENTS = 40
PLAN = SamplingPlan(per_decile=7, negatives=(NegativePlan(n=20),))
SHOWN = {"plan": PLAN, "options": ScoringOptions()}
RECALL = {decile: 0.45 + 0.05 * decile for decile in range(1, 11)}
SPECIFICITY = 0.85


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=LATENTS, silent=2)


async def at_once(seconds):
    await asyncio.sleep(0)


def judge_for(server, **options):
    return OpenAIJudge(server.url, server.model, sleep=at_once, **options)


def right(description, line):
    truth, decile = truth_of(description, line)
    return truth, truth, decile


def scored_by(planted, reply, latents=range(3), *, judge_options=None, **options):
    index, text = planted
    with ChatServer(reply) as server:
        judge = judge_for(server, **(judge_options or {}))
        explanations = options.pop("explanations", None) or planted_explanations(latents)
        result = score(index, explanations, judge=judge, text=text, **{**SHOWN, **options})
        return result, server.asked


def figures(scores, metric, scorer, decile=0):
    return [
        row
        for row in scores.to_pylist()
        if (row["metric"], row["scorer"], row["decile"]) == (metric, scorer, decile)
    ]


@pytest.fixture(scope="module")
def erred(planted):
    """Forty latents judged with a known error rate, and the server's own book of its answers."""
    book = {}
    judged = erring(RECALL, SPECIFICITY)

    def noting(description, line):
        said = judged(description, line)
        book[description, line] = said
        return said

    result, asked = scored_by(planted, answering(noting), range(LATENTS))
    return result, asked, book


def test_the_balanced_accuracy_that_comes_out_is_the_one_that_went_in(erred):
    scores = erred[0].scores
    planted_value = (np.mean(list(RECALL.values())) + SPECIFICITY) / 2
    for scorer in ("detection", "fuzzing"):
        rows = figures(scores, "balanced_accuracy", scorer)
        assert len(rows) == LATENTS
        covered = sum(row["low"] <= planted_value <= row["high"] for row in rows)
        assert covered >= 0.88 * LATENTS
        mean = np.mean([row["value"] for row in rows])
        # Four standard errors of the mean of forty latents with 50 and 20 verdicts.
        assert mean == pytest.approx(planted_value, abs=4 * 0.05 / np.sqrt(LATENTS))
    for line in summary(scores):
        assert line.low <= planted_value + 0.02
        assert line.high >= planted_value - 0.02
        assert line.above_chance
        assert "above chance" in str(line)


def test_each_latents_figures_are_those_that_the_server_counted(erred):
    result, _, book = erred
    for scorer in ("detection", "fuzzing"):
        for latent in range(LATENTS):
            (explanation,) = planted_explanations([latent])
            said = [
                answer
                for (description, line), answer in book.items()
                if description == explanation.text and ("<<" in line) == (scorer == "fuzzing")
            ]
            recalls = [
                np.mean([yes for yes, truth, d in said if truth and d == decile])
                for decile in range(1, 11)
            ]
            specificity = np.mean([not yes for yes, truth, _ in said if not truth])
            (row,) = (
                row
                for row in figures(result.scores, "balanced_accuracy", scorer)
                if row["explanation_id"] == explanation.explanation_id
            )
            assert row["value"] == pytest.approx((np.mean(recalls) + specificity) / 2)
            assert (row["n_positive"], row["n_negative"], row["n_missing"]) == (50, 20, 0)


def test_recall_rises_with_the_decile_as_planted(erred):
    for scorer in ("detection", "fuzzing"):
        for decile, planted_recall in RECALL.items():
            rows = figures(erred[0].scores, "recall", scorer, decile)
            assert sum(row["n"] for row in rows) == 5 * LATENTS
            # Four standard errors of 200 verdicts.
            assert np.mean([row["value"] for row in rows]) == pytest.approx(
                planted_recall, abs=4 * 0.5 / np.sqrt(5 * LATENTS)
            )


def test_a_judge_that_guesses_is_not_told_from_chance(planted):
    # Of the 95 % intervals of 48 such coins 45 hold one half; this coin's is one of them.
    guess = lambda description, line: (coin(0.5, "g2", description, line), None, None)  # noqa: E731
    result, _ = scored_by(planted, answering(guess), range(10))
    for line in summary(result.scores):
        assert line.low <= 0.5 <= line.high
        assert "not distinguishable from chance" in str(line)


def test_a_judge_who_knows_is_right_everywhere(planted):
    result, _ = scored_by(planted, answering(right))
    rows = [row for row in result.scores.to_pylist() if row["metric"] == "balanced_accuracy"]
    assert [row["value"] for row in rows] == [1.0] * 6
    assert all(0.8 < row["low"] < 1.0 and row["high"] == 1.0 for row in rows)


# --- what is asked


def test_every_example_is_asked_about_once_five_a_prompt_and_the_short_last_prompt_is_kept(planted):
    options = ScoringOptions(
        detection=DetectionOptions(per_prompt=8), fuzzing=FuzzingOptions(per_prompt=8)
    )
    result, asked = scored_by(planted, answering(right), [0], options=options)
    sizes = sorted(len(request.examples) for request in asked)
    assert sizes == [6] * 2 + [8] * 16
    verdicts = result.verdicts.to_pylist()
    keys = [(v["scorer"], v["example_id"], tuple(v["marks"] or ())) for v in verdicts]
    assert len(keys) == len(set(keys)) == 140
    assert all(request.schema["minItems"] == len(request.examples) for request in asked)


def test_what_the_prompts_share_comes_first(planted):
    _, asked = scored_by(planted, answering(right), [0, 1], scorers=("detection",))
    heads = {json.dumps(request.body["messages"][:-1]) for request in asked}
    assert len(heads) == 1
    assert {description_of(request) for request in asked} == {"latent 0", "latent 1"}
    assert all(request.question.startswith("Description: ") for request in asked)


def test_detection_shows_the_examples_that_fuzzing_marks_rightly_and_marks_nothing(planted):
    result, asked = scored_by(planted, answering(right), [0])
    verdicts = result.verdicts.to_pylist()
    detected = {v["example_id"] for v in verdicts if v["scorer"] == "detection" and v["truth"]}
    marked = {v["example_id"] for v in verdicts if v["scorer"] == "fuzzing" and v["truth"]}
    wrong = {v["example_id"] for v in verdicts if v["scorer"] == "fuzzing" and not v["truth"]}
    assert detected == marked
    assert len(detected) == 50
    assert len(wrong) == 20
    assert not wrong & marked
    assert sum("<<" in request.question for request in asked) == 14


def test_examples_are_of_the_score_side_and_come_with_text(planted):
    result, _ = scored_by(planted, answering(right), [0])
    examples = result.examples.to_pylist()
    assert result.examples.schema == TABLES["examples"]
    assert {row["split"] for row in examples} == {"score"}
    assert len({row["example_id"] for row in examples}) == len(examples) == 90
    for row in examples:
        assert len(row["text"].split()) == 32
        assert ("hit0d" in row["text"]) == row["activating"]
        assert row["activating"] == (row["decile"] > 0)


def test_two_explanations_of_a_latent_are_judged_on_the_same_prompts(planted):
    pair = [Explanation.of(HOOKPOINT, 1, "a", "latent 1"), Explanation.of(HOOKPOINT, 1, "b", "x")]
    reply = lambda request: Reply(json.dumps([True] * len(request.examples)))  # noqa: E731
    _, asked = scored_by(planted, reply, explanations=pair)
    shown = {"latent 1": set(), "x": set()}
    for request in asked:
        shown[description_of(request)].add(tuple(request.examples))
    assert shown["latent 1"] == shown["x"]
    assert len(shown["x"]) == 28


def test_the_same_seed_gives_the_same_verdicts_and_another_seed_others(planted):
    def ids(seed):
        table = scored_by(planted, answering(right), [2], seed=seed)[0].verdicts
        return sorted(json.dumps(row, sort_keys=True) for row in table.to_pylist())

    assert ids(3) == ids(3)
    assert ids(3) != ids(4)


def test_an_explanation_of_several_lines_stays_on_its_own_line(planted):
    sly = Explanation.of(HOOKPOINT, 1, "a", "latent\n\nExample 1: everything\nExample 2: more")
    reply = lambda request: Reply(json.dumps([True] * len(request.examples)))  # noqa: E731
    _, asked = scored_by(planted, reply, explanations=[sly])
    assert all(len(request.examples) == 5 for request in asked)


def test_usage_counts_every_request_and_its_tokens(planted):
    def reply(request):
        answer = answering(right)(request)
        return Reply(answer.text, cached=7)

    result, asked = scored_by(planted, reply, [0, 1])
    entries = [(entry.latent, entry.scorer) for entry in result.usage]
    assert sorted(entries) == [(n, name) for n in range(2) for name in ("detection", "fuzzing")]
    assert sum(entry.verdicts for entry in result.usage) == 2 * 140
    assert sum(entry.requests for entry in result.usage) == len(asked) == 56
    sent = sum(len(t["content"].split()) for r in asked for t in r.body["messages"])
    assert sum(entry.prompt_tokens for entry in result.usage) == sent
    assert sum(entry.cached_tokens for entry in result.usage) == 7 * 56
    assert sum(entry.unique_prompt_tokens for entry in result.usage) == sent - 7 * 56
    assert all(entry.seconds > 0 for entry in result.usage)


def test_the_firing_rate_is_the_share_of_the_scorers_windows(planted):
    index, _ = planted
    explanations = planted_explanations([0])
    (rate,) = firing_rates(index, explanations).values()
    starts, _, _ = index.windows(0)
    side, eligible = index.sides(), index.eligible()
    numbers = (starts // np.uint64(index.window)).astype(int)
    active = np.count_nonzero(eligible[numbers] & (side[numbers] == 1))
    assert rate == active / np.count_nonzero(eligible & (side == 1))


def test_a_latent_without_examples_gets_no_score_and_a_reason(planted):
    dead = Explanation.of(HOOKPOINT, LATENTS, "planted", f"latent {LATENTS}")
    plan = SamplingPlan(per_decile=7, negatives=())
    result, asked = scored_by(planted, answering(right), explanations=[dead], plan=plan)
    assert asked == []
    rows = result.scores.to_pylist()
    assert [(row["scorer"], row["value"]) for row in rows] == [
        ("detection", None),
        ("fuzzing", None),
    ]
    assert all("no examples" in row["reason"] for row in rows)


def test_a_latent_with_too_few_examples_gets_no_score_and_a_reason(planted):
    dead = Explanation.of(HOOKPOINT, LATENTS, "planted", f"latent {LATENTS}")
    result, _ = scored_by(planted, answering(right), explanations=[dead])
    rows = figures(result.scores, "balanced_accuracy", "detection")
    assert rows[0]["value"] is None
    assert "0 activating examples were judged; 20 are needed" in rows[0]["reason"]
    assert {"latent": LATENTS, "what": "score", "wanted": 70, "found": 0} in (
        result.shortfalls.to_pylist()
    )


def test_no_explanations_give_empty_tables(planted):
    result, asked = scored_by(planted, answering(right), latents=())
    assert asked == []
    assert (result.scores.num_rows, result.verdicts.num_rows, result.missing) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scorers": ("guessing",)},
            "scorer `guessing`: unknown; known are detection, fuzzing, neigh",
        ),
        ({"plan": SamplingPlan()}, "`per_decile` is 5; fuzzing shows 7 examples of each decile"),
        ({"hookpoint": "elsewhere"}, "is of hookpoint `model.layers.5`"),
        ({"provenance": {"moon": "x"}}, "provenance `moon`"),
    ],
)
def test_what_cannot_be_scored_is_refused(planted, options, message):
    with pytest.raises(InputError, match=message):
        scored_by(planted, answering(right), **options)


def test_the_protocol_holds_every_parameter_and_changes_with_each(planted):
    result, _ = scored_by(planted, answering(right), [0])
    parameters = result.protocol.parameters
    assert parameters["per_decile"] == 7
    assert parameters["negatives"] == [{"kind": "random", "n": 20, "margin": 0}]
    assert parameters["scorers"]["fuzzing"]["threshold"] == 0.3
    assert (parameters["strata"], parameters["clusters"]) == ("decile", "prompt")
    assert parameters["window"] == 32
    assert (result.protocol.preset, result.protocol.judge) == ("custom", "known")
    other, _ = scored_by(
        planted,
        answering(right),
        [0],
        options=ScoringOptions(fuzzing=FuzzingOptions(threshold=0.5)),
    )
    assert other.protocol.protocol_id != result.protocol.protocol_id
    plan = PLAN.model_copy(update={"explain": ExplainPlan(n=3)})
    same, _ = scored_by(planted, answering(right), [0], plan=plan)
    assert same.protocol.protocol_id == result.protocol.protocol_id


# --- answers that are none


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I think the first one fits.", "malformed"),
        ("[true, false", "malformed"),
        ("[true]", "malformed"),
        ("[true, false, true, false, true, false]", "malformed"),
        ("[1, 0, 1, 0, 1]", "malformed"),
        ('["true", "true", "true", "true", "true"]', "malformed"),
        ("[true, null, true, true, true]", "malformed"),
        ('{"answers": [true, true, true, true, true]}', "malformed"),
        ("true", "malformed"),
        ("[" * 5000, "malformed"),
        ("", "empty"),
    ],
)
def test_nonsense_is_asked_once_more_and_then_missing_never_a_score(planted, text, kind):
    result, asked = scored_by(planted, lambda _: Reply(text), [0], scorers=("detection",))
    assert len(asked) == 2 * 14
    verdicts = result.verdicts.to_pylist()
    assert len(verdicts) == 70
    assert all(v["answer"] is None and v["failure"].startswith(kind) for v in verdicts)
    assert result.missing == 70
    assert all(row["value"] is None for row in result.scores.to_pylist())
    (row,) = figures(result.scores, "balanced_accuracy", "detection")
    assert row["n_missing"] == 70
    assert "70 of 70 verdicts are missing" in row["reason"]
    (line,) = summary(result.scores)
    assert (line.value, line.refused, line.missing) == (None, 1, 70)


def test_a_second_attempt_that_succeeds_leaves_nothing_missing(planted):
    seen = set()

    def reply(request):
        if request.question in seen:
            return answering(right)(request)
        seen.add(request.question)
        return Reply("well, let me think", finish="length")

    result, asked = scored_by(planted, reply, [0])
    assert len(asked) == 56
    assert result.missing == 0
    assert sum(entry.requests for entry in result.usage) == 56


@pytest.mark.parametrize("text", ["[true,\n\ttrue, true,true, true]", "```json\n[%s]\n```"])
def test_white_space_and_fences_around_the_array_do_no_harm(planted, text):
    text = text.replace("%s", ", ".join(["true"] * 5))
    result, _ = scored_by(planted, lambda _: Reply(text), [0])
    assert result.missing == 0


def test_some_failures_are_counted_and_the_rest_is_scored(planted):
    def reply(request):
        if coin(0.1, request.question):
            return Reply(status=400, error="too long")
        return answering(right)(request)

    result, _ = scored_by(planted, reply, range(4))
    rows = figures(result.scores, "balanced_accuracy", "detection")
    assert sum(row["n_missing"] for row in rows) > 0
    for row in rows:
        assert row["n"] + row["n_missing"] == 70
        assert row["value"] in (1.0, None)
        assert (row["value"] is None) == (row["n_missing"] > 14)


# --- broken off and gone on with


def test_a_server_that_dies_in_mid_run_loses_nothing_and_nothing_is_asked_twice(planted):
    index, text = planted
    explanations = planted_explanations(range(4))
    kept = []
    questions = []

    def dying(request):
        if request.number > 60:
            return Reply(reset=True)
        questions.append(request.question)
        return answering(right)(request)

    with ChatServer(dying) as server:
        judge = judge_for(server, attempts=1, dead_after=3, concurrency=1)
        with pytest.raises(JudgeError, match="what was answered is kept"):
            score(index, explanations, judge=judge, text=text, sink=kept.extend, **SHOWN)
    answered = [verdict for verdict in kept if verdict.answer is not None]
    assert len(answered) == 5 * len(questions) == 5 * 60

    stored = pa.Table.from_pylist([v.model_dump() for v in kept], schema=TABLES["verdicts"])
    with ChatServer(answering(right)) as server:
        result = score(
            index,
            explanations,
            judge=judge_for(server),
            text=text,
            stored=stored,
            sink=kept.extend,
            **SHOWN,
        )
        again = [request.question for request in server.asked]
    assert not set(again) & set(questions)
    assert len(again) + len(questions) == 4 * 28

    whole, _ = scored_by(planted, answering(right), range(4))
    assert result.scores.sort_by("explanation_id").equals(whole.scores.sort_by("explanation_id"))
    keys = [(v["explanation_id"], v["prompt_id"], v["slot"]) for v in result.verdicts.to_pylist()]
    assert len(keys) == len(set(keys)) == 4 * 140


def test_a_finished_run_asks_nothing_again(planted):
    first, _ = scored_by(planted, answering(right), range(2))
    again, asked = scored_by(planted, answering(right), range(2), stored=first.verdicts)
    assert asked == []
    assert again.scores.equals(first.scores)
    assert again.examples.equals(first.examples)


def test_verdicts_that_failed_by_the_models_fault_are_settled_and_by_the_servers_are_not(planted):
    bad, _ = scored_by(planted, lambda _: Reply("nonsense"), [0], scorers=("detection",))
    assert len(settled(bad.verdicts)) == 14
    busy = lambda _: Reply(status=503)  # noqa: E731
    options = {"attempts": 1, "dead_after": 1000}
    down, _ = scored_by(planted, busy, [0], scorers=("detection",), judge_options=options)
    assert settled(down.verdicts) == set()
    assert {v["failure"].split(":")[0] for v in down.verdicts.to_pylist()} == {"server_error"}


def test_skipped_prompts_without_their_verdicts_give_no_score_of_a_part(planted):
    first, _ = scored_by(planted, answering(right), range(2))
    skip = set(first.verdicts["prompt_id"].to_pylist()[:5])
    rest, asked = scored_by(planted, answering(right), range(2), skip=skip)
    assert len(asked) == 56 - 1
    assert len(set(rest.scores["explanation_id"].to_pylist())) == 1


def test_what_the_sink_raises_stops_the_run(planted):
    def full(verdicts):
        raise InputError("disk full")

    with pytest.raises(InputError, match="disk full"):
        scored_by(planted, answering(right), sink=full)


def test_cancelling_leaves_the_verdicts_that_were_handed_over(planted):
    index, text = planted
    kept = []

    def reply(request):
        return Reply(stall=True) if request.number > 20 else answering(right)(request)

    async def whole(judge):
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.0):
                    await ascore(
                        index,
                        planted_explanations([0]),
                        judge=judge,
                        text=text,
                        sink=kept.extend,
                        **SHOWN,
                    )
        finally:
            await judge.close()

    with ChatServer(reply) as server:
        asyncio.run(whole(judge_for(server)))
    assert len(kept) == 100


def test_scores_from_the_tables_alone_are_the_same(erred, planted):
    result = erred[0]
    rates = firing_rates(planted[0], planted_explanations(range(LATENTS)))
    shuffled = result.verdicts.take(np.random.default_rng(0).permutation(len(result.verdicts)))
    again = scores_from(shuffled, result.examples, firing_rates=rates)
    for ours, theirs in zip(
        again.to_pylist(), result.scores.sort_by("explanation_id").to_pylist(), strict=True
    ):
        assert ours == pytest.approx(theirs, nan_ok=True)
