"""The queue that runs any scorer: several questions a request, none, slow ones, and no judge."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pyarrow as pa
import pytest

from glossator.errors import InputError, JudgeError
from glossator.judges.base import Answer, Failure, Job, Prompt, Usage
from glossator.records import TABLES, Explanation, Verdict
from glossator.sampling import NegativePlan, SamplingPlan
from glossator.score import ScoringOptions, ascore, score
from glossator.score.detection import DetectionOptions
from glossator.score.handing import Handing
from glossator.score.parts import failure_of, missing, prompt_id_of, verdict_of
from glossator.score.questions import Item
from glossator.score.scorers import Request, Shortfall
from planted import HOOKPOINT, PlantedJudge, planted_explanations, planted_index, truth_of

PLAN = SamplingPlan(per_decile=1, negatives=(NegativePlan(n=4),))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=8, per_decile=20)


class Scorer:
    """Asks `questions` about each window, or none; says what the first answer says."""

    template_hash = ""

    def __init__(self, name="odd", *, questions=1, needs_explanation=True, slow=False):
        self.name, self.needs_explanation, self.slow = name, needs_explanation, slow
        self.questions, self.prepared, self.threads = questions, [], set()
        self.at_once = self.most_at_once = 0

    def parameters(self):
        return {"questions": self.questions}

    def refuse(self, plan, capabilities):
        if self.questions and capabilities is None:
            raise InputError(f"scorer `{self.name}`: asks a judge")

    def prepare(self, materials):
        self.prepared.append([material.latent for material in materials])
        return [Shortfall(material.latent, "luck", 7, 3) for material in materials]

    def requests(self, material, explanation, protocol_id):
        for window in material.windows:
            items = (Item(window.example_id, window.shown.render(), window.decile > 0),)
            jobs = tuple(
                Job(
                    None,
                    Prompt(f"Description: {explanation.text}\nPassage:\n{items[0].line}", str(n)),
                    8,
                    choices=("yes", "no"),
                )
                for n in range(self.questions)
            )
            key = prompt_id_of(self.name, explanation, protocol_id, items)
            yield Request(key, self.name, explanation, items, jobs)

    def verdicts(self, request, protocol_id, answers):
        self.threads.add(threading.current_thread() is threading.main_thread())
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        if self.slow:
            time.sleep(0.001)
        self.at_once -= 1
        assert len(answers) == len(request.jobs)
        failure = failure_of(answers)
        if failure is not None:
            return missing(request, protocol_id, failure)
        value = tuple(float(answer.text == "yes") for answer in answers)
        return [verdict_of(request, protocol_id, 0, value=value, answer=value[:1] == (1.0,))]


def knows(description, line):
    return (truth_of(description or "latent 0", line)[0],)


def run(planted, scorers, *, judge=None, latents=range(3), explanations=None, **options):
    index, text = planted
    said = planted_explanations(latents) if explanations is None else explanations
    return score(index, said, judge=judge, text=text, plan=PLAN, scorers=scorers, **options)


def test_a_request_of_several_questions_is_read_when_all_are_answered(planted):
    scorer, judge = Scorer(questions=3), PlantedJudge(knows)
    scored = run(planted, [scorer], judge=judge)
    rows = scored.verdicts.to_pylist()
    assert len(rows) == 3 * 14
    assert len(judge.asked) == 3 * len(rows)
    assert all(row["value"] == [row["truth"]] * 3 for row in rows)
    assert sum(entry.requests for entry in scored.usage) == 3 * len(rows)
    assert {entry.latent: entry.verdicts for entry in scored.usage} == dict.fromkeys(range(3), 14)


def test_scorers_stand_in_one_queue_and_each_is_prepared_once_a_latent(planted):
    scorers = [Scorer("one"), Scorer("two", questions=2)]
    options = ScoringOptions(detection=DetectionOptions(per_stratum=1))
    scored = run(
        planted,
        [*scorers, "detection"],
        judge=PlantedJudge(knows),
        latents=range(8),
        options=options,
    )
    names = scored.verdicts["scorer"].to_pylist()
    assert {name: names.count(name) for name in set(names)} == {
        **dict.fromkeys(("one", "two"), 8 * 14),
        "detection": 8 * 14,
    }
    assert [scorer.prepared for scorer in scorers] == [[list(range(8))]] * 2
    told = [row for row in scored.shortfalls.to_pylist() if row["what"] == "luck"]
    assert len(told) == 2 * 8
    assert scored.protocol.parameters["scorers"]["one"] == {"questions": 1}


def test_more_latents_than_are_made_ready_at_once_are_all_asked_about(planted, monkeypatch):
    monkeypatch.setattr(sys.modules["glossator.score.asking"], "_CHUNK", 3)
    scorer = Scorer()
    scored = run(planted, [scorer], judge=PlantedJudge(knows), latents=range(8))
    assert scorer.prepared == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert len(scored.verdicts) == 8 * 14


def test_scorers_without_questions_need_no_judge_and_run_in_threads(planted):
    scorer = Scorer(questions=0, slow=True)
    scored = run(planted, [scorer])
    assert len(scored.verdicts) == 3 * 14
    assert scorer.threads == {False}
    assert scorer.most_at_once == 1
    assert (scored.protocol.judge, scored.missing) == ("", 0)
    assert [entry.requests for entry in scored.usage] == [0, 0, 0]
    with pytest.raises(InputError, match="scorer `odd`: asks a judge"):
        run(planted, [Scorer(questions=1)])
    with pytest.raises(InputError, match="scorer `detection`: asks a judge; name one"):
        run(planted, ["detection"])


def test_slow_scorers_read_answers_in_threads_one_at_a_time_and_quick_ones_do_not(planted):
    slow, quick, alone = Scorer("slow", slow=True), Scorer("quick"), Scorer("alone", questions=0)
    run(planted, [slow, quick, alone], judge=PlantedJudge(knows))
    assert (slow.threads, quick.threads, alone.threads) == ({False}, {True}, {False})
    assert slow.most_at_once == alone.most_at_once == 1


def test_what_needs_no_explanation_is_asked_once_a_latent_under_one_of_none(planted):
    said = [Explanation.of(HOOKPOINT, n, name, "x") for n in (0, 1) for name in ("a", "b", "c")]
    scorers = [Scorer("bare", needs_explanation=False), Scorer("told")]
    scored = run(planted, scorers, judge=PlantedJudge(lambda *_: (True,)), explanations=said)
    none = [Explanation.of(HOOKPOINT, latent, "none", "") for latent in (0, 1)]
    assert list(scored.explanations) == none
    of = {"bare": set(), "told": set()}
    for row in scored.verdicts.to_pylist():
        of[row["scorer"]].add(row["explanation_id"])
    assert of["bare"] == {one.explanation_id for one in none}
    assert of["told"] == {one.explanation_id for one in said}
    # Once they are stored, they are given like any other, and stay what they are.
    again = run(
        planted, scorers, judge=PlantedJudge(lambda *_: (True,)), explanations=[*said, *none]
    )
    assert again.explanations == ()
    assert len(again.verdicts) == len(scored.verdicts) == 2 * 14 * (1 + 3)


class Failing(PlantedJudge):
    """Fails every first asking in some way, and every one of some questions."""

    def __init__(self, kind, *, mends):
        super().__init__(knows)
        self.kind, self.mends = kind, mends

    def _answer(self, prompt, choices, logprobs):
        answer = super()._answer(prompt, choices, logprobs)
        if prompt.system == "1" and not (self.mends and prompt.attempt == 2):
            return Answer(failure=Failure(self.kind), usage=Usage(10, 0, 1))
        return answer


@pytest.mark.parametrize("mends", [True, False])
@pytest.mark.parametrize(("kind", "again"), [("malformed", True), ("timeout", False)])
def test_a_request_is_asked_again_once_where_the_model_failed(planted, kind, again, mends):
    judge = Failing(kind, mends=mends)
    scored = run(planted, [Scorer(questions=3)], judge=judge)
    assert len(judge.asked) == 3 * 14 * 3 * (1 + again)
    assert {prompt.attempt for prompt in judge.asked} == {1, 2} if again else {1}
    lost = 0 if mends and again else 3 * 14
    assert scored.missing == lost
    assert all(
        (row["answer"] is None) == bool(row["failure"]) for row in scored.verdicts.to_pylist()
    )


def test_answers_out_of_a_store_cost_nothing_again(planted):
    class Replayed(PlantedJudge):
        def _answer(self, prompt, choices, logprobs):
            told = super()._answer(prompt, choices, logprobs)
            return Answer(told.text, usage=told.usage, seconds=1.0, replayed=True)

    scored = run(planted, [Scorer()], judge=Replayed(knows))
    assert [(e.requests, e.prompt_tokens, e.verdicts) for e in scored.usage] == [(0, 0, 14)] * 3


def test_a_scorer_that_breaks_stops_the_scoring_wherever_it_runs(planted):
    class Broken(Scorer):
        def verdicts(self, request, protocol_id, answers):
            raise ZeroDivisionError("here")

    for questions in (0, 1):
        with pytest.raises(ZeroDivisionError, match="here"):
            run(planted, [Broken(questions=questions), Scorer("fine")], judge=PlantedJudge(knows))

    class Unready(Scorer):
        def prepare(self, materials):
            raise ZeroDivisionError("there")

    with pytest.raises(ZeroDivisionError, match="there"):
        run(planted, [Unready()], judge=PlantedJudge(knows))


# --- handing over


class Slow(PlantedJudge):
    """Answers after a while, so that many requests are under way at once."""

    async def answer(self, prompts, **options):
        await asyncio.sleep(0.001)
        return await super().answer(prompts, **options)


def test_verdicts_are_handed_over_in_groups_none_twice_and_none_lost(planted):
    groups = []

    def sink(verdicts):
        time.sleep(0.002)
        groups.append(list(verdicts))

    scored = run(planted, [Scorer()], judge=Slow(knows), sink=sink)
    given = [verdict for group in groups for verdict in group]
    assert len(given) == len({v.prompt_id for v in given}) == len(scored.verdicts) == 3 * 14
    assert len(groups) < len(given) / 2


def test_no_more_is_lost_than_is_under_way(planted):
    """A judge that dies when some were answered: all but those in flight were handed over."""
    kept, judged = [], []

    class Dying(Slow):
        def _answer(self, prompt, choices, logprobs):
            if len(judged) >= 30:
                raise JudgeError("dead")
            judged.append(prompt)
            return super()._answer(prompt, choices, logprobs)

    judge = Dying(knows)
    with pytest.raises(JudgeError):
        run(planted, [Scorer()], judge=judge, sink=kept.extend)
    assert len(judged) - judge.concurrency <= len(kept) <= len(judged)
    stored = pa.Table.from_pylist([v.model_dump() for v in kept], schema=TABLES["verdicts"])
    judge = PlantedJudge(knows)
    scored = run(planted, [Scorer()], judge=judge, stored=stored)
    assert len(judge.asked) == 3 * 14 - len(kept)
    assert len(scored.verdicts) == 3 * 14


def test_what_the_sink_raises_reaches_all_who_wait_and_a_cancelled_waiter_harms_nobody():
    def verdict(slot):
        return Verdict(
            explanation_id="e",
            protocol_id="p",
            scorer="s",
            example_id="x",
            prompt_id="q",
            slot=slot,
            truth=True,
            answer=True,
        )

    async def failing():
        def sink(verdicts):
            raise OSError("full")

        handing = Handing(sink)
        return await asyncio.gather(
            *(handing.give([verdict(slot)]) for slot in range(3)), return_exceptions=True
        )

    assert [str(error) for error in asyncio.run(failing())] == ["full"] * 3

    async def cancelled():
        kept = []
        handing = Handing(kept.extend)
        first = asyncio.create_task(handing.give([verdict(0)]))
        second = asyncio.create_task(handing.give([verdict(1)]))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled() or first.done()
        return [each.slot for each in kept]

    assert asyncio.run(cancelled()) == [0, 1]


def test_cancelling_in_mid_run_hands_over_what_was_read(planted):
    index, text = planted
    kept = []

    async def whole():
        work = asyncio.create_task(
            ascore(
                index,
                planted_explanations(range(3)),
                judge=Slow(knows),
                text=text,
                plan=PLAN,
                scorers=[Scorer(), Scorer("here", questions=0, slow=True)],
                sink=kept.extend,
            )
        )
        while len(kept) < 10:
            await asyncio.sleep(0.001)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(whole())
    assert 10 <= len(kept) < 2 * 3 * 14
    assert len({(v.scorer, v.prompt_id) for v in kept}) == len(kept)
