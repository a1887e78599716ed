"""One queue for all latents, whatever an explainer's steps, a dying judge or a cancelled caller."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asked_judges import Knowing, explained_as
from glossator.errors import InputError, JudgeError
from glossator.explain import Delimited, Refine, aexplain, explain
from glossator.explain.asking import Asking
from glossator.explain.drawing import Unexplained
from glossator.explain.explainers import Ask, Explainer, Told
from glossator.explain.views import View
from glossator.judges.base import Failure, Prompt
from glossator.judges.openai_server import OpenAIJudge
from glossator.progress import SILENT
from judge_servers import ChatServer, Reply
from stop_world import stop_index


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return stop_index(tmp_path_factory.mktemp("stop") / "index")


class Steps(Explainer):
    """Asks as many questions at each step as its settings say."""

    label: ClassVar[str] = "steps"
    asks: ClassVar[bool] = True
    counts: tuple[tuple[int, ...], ...]

    def steps(self, view):
        said = []
        for step, count in enumerate(self.counts[view.latent]):
            asks = [
                Ask(Prompt(f"{view.latent} {step} {i}"), 5, to_chooser=(step + i) % 3 == 0)
                for i in range(count)
            ]
            answers = yield asks
            assert [answer.text for answer in answers] == [ask.prompt.user for ask in asks]
            said += [answer.text for answer in answers]
        if len(said) == 3:
            return Failure("malformed")
        return Told(f"{len(said)} said")


class Views:
    def views(self, latents):
        return [
            Unexplained(latent, "left out") if latent % 7 == 6 else View("hook", latent, 0, (), str)
            for latent in latents
        ]


def asking(explainer, latents, judge, chooser=None, sink=None):
    with SILENT.stage("explain") as bar:
        return Asking(
            explainer,
            Views(),
            latents,
            name="steps:known",
            judge=judge,
            chooser=chooser,
            hookpoint="hook",
            sink=sink,
            bar=bar,
        )


def echo(prompt, choices):
    return prompt.user


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 5), max_size=4).map(tuple), min_size=1, max_size=70),
    st.integers(1, 40),
    st.booleans(),
)
def test_every_step_of_every_latent_is_gone_once(counts, concurrency, with_chooser):
    judge, chooser = Knowing(echo, concurrency=concurrency), Knowing(echo, name="other")
    explainer = Steps(counts=tuple(counts))
    work = asking(explainer, range(len(counts)), judge, chooser if with_chooser else None)
    asyncio.run(asyncio.wait_for(work.run(), 20))
    done = work.explained(0.0)
    expected, failed = [], []
    for latent, steps in enumerate(counts):
        if latent % 7 == 6 or sum(steps) == 3:
            failed.append(latent)
        else:
            expected.append((latent, f"{sum(steps)} said"))
    assert [(e.latent, e.text) for e in done.explanations] == expected
    assert [f.latent for f in done.failures] == failed
    asked = [prompt.user for prompt in (*judge.asked, *chooser.asked)]
    questions = [
        f"{latent} {step} {i}"
        for latent, steps in enumerate(counts)
        if latent % 7 != 6
        for step, count in enumerate(steps)
        for i in range(count)
    ]
    assert sorted(asked) == sorted(questions)
    assert done.usage.requests == len(questions)
    for prompt in chooser.asked:
        _, step, i = map(int, prompt.user.split())
        assert (step + i) % 3 == 0


def test_a_latent_that_is_begun_goes_before_the_next():
    judge = Knowing(echo, concurrency=2)
    explainer = Steps(counts=((2, 2, 2),) * 6)
    work = asking(explainer, range(6), judge)
    asyncio.run(work.run())
    order = [int(prompt.user.split()[0]) for prompt in judge.asked]
    for latent in range(2, 6):
        # By then at most two others were under way.
        begun = order.index(latent)
        over = [other for other in range(6) if order[:begun].count(other) == 6]
        assert len(over) >= latent - 2


def test_more_questions_at_once_than_places_are_all_asked():
    judge = Knowing(echo, concurrency=3)
    work = asking(Steps(counts=((50,),)), [0], judge)
    asyncio.run(asyncio.wait_for(work.run(), 10))
    assert len(judge.asked) == 50


def test_a_judge_that_dies_amid_a_step_keeps_what_was_handed_over(world):
    index, text = world
    kept = []

    def dying(prompt, choices):
        if len(judge.asked) > 50:
            raise JudgeError("judge: gone")
        return "yes" if choices else explained_as("anything")

    judge = Knowing(dying, concurrency=1)
    with pytest.raises(JudgeError, match="gone"):
        explain(
            index, [2, 0, 1], explainer=Refine(rounds=1), judge=judge, text=text, sink=kept.append
        )
    # Latent 2 has nothing silent: its active passages alone are looked at.
    assert [explanation.latent for explanation in kept] == [2]


def test_cancelling_ends_the_work_and_what_was_kept_stays(world):
    index, text = world

    async def broken_off():
        kept = []
        waiting = asyncio.Event()

        class Slow(Knowing):
            async def answer(self, prompts, **how):
                if len(self.asked) >= 1:
                    waiting.set()
                    await asyncio.sleep(60)
                return await super().answer(prompts, **how)

        judge = Slow(lambda prompt, choices: explained_as("anything"), concurrency=1)
        work = asyncio.create_task(
            aexplain(index, [0, 1], explainer=Delimited(), judge=judge, text=text, sink=kept.append)
        )
        await waiting.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return kept

    assert [explanation.latent for explanation in asyncio.run(broken_off())] == [0]


def test_over_http_a_refinement_is_what_it_is_in_process(world):
    index, text = world

    def said(system, user):
        if user.startswith("Description: "):
            return "yes" if "stop" in user.split("Passage: ")[1] else "no"
        return explained_as("stop" if "Missed" in user else "first")

    inside = Knowing(lambda prompt, choices: said(prompt.system, prompt.user))
    expected = explain(index, [0], explainer=Refine(rounds=1), judge=inside, text=text)

    def reply(request):
        choice = said("", request.question)
        return Reply(
            choice,
            logprobs={"yes": -0.1, "no": -3.0}
            if choice == "yes"
            else {"no": -0.1, "yes": -3.0}
            if choice == "no"
            else None,
        )

    with ChatServer(reply) as server:
        judge = OpenAIJudge(server.url, "known")
        explained = explain(index, [0], explainer=Refine(rounds=1), judge=judge, text=text)
    assert explained.explanations == expected.explanations
    assert explained.attempts == expected.attempts


def test_the_sync_door_is_closed_inside_an_event_loop(world):
    index, text = world

    async def inside():
        judge = Knowing(echo)
        with pytest.raises(InputError, match="await aexplain"):
            explain(index, [0], explainer="delimited", judge=judge, text=text)

    asyncio.run(inside())
