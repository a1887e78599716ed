"""The store of answers: the same question never goes out twice, and replays are bit for bit."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glossator.errors import InputError, JudgeError
from glossator.judges import (
    Answer,
    Capabilities,
    Failure,
    Prompt,
    Reading,
    Replay,
    ReplayJudge,
    Usage,
    open_judge,
    run_sync,
)
from glossator.judges.base import Job, answer_all
from glossator.judges.replay import _answer_from, _body, _key, _reading_from

WORDS = st.text(max_size=12)
KINDS = st.sampled_from(["timeout", "rejected", "truncated", "malformed"])
NUMBERS = st.floats(allow_nan=False)


class Counting:
    """A judge that counts what it is asked and waits a moment before it answers."""

    name, concurrency, notes = "counting", 4, ("a note",)
    capabilities = Capabilities(choices=True, logprobs=True, readings=True)

    def __init__(self, reply=lambda prompt: prompt.user.upper(), wait=0.0):
        self.asked, self.closed, self.reply, self.wait = [], 0, reply, wait

    async def check(self):
        pass

    async def answer(self, prompts, *, choices=None, schema=None, max_tokens, logprobs=False):
        answers = []
        for prompt in prompts:
            self.asked.append(prompt)
            await asyncio.sleep(self.wait)
            reply = self.reply(prompt)
            if isinstance(reply, JudgeError):
                raise reply
            answers.append(
                Answer(failure=reply, seconds=0.25)
                if isinstance(reply, Failure)
                else Answer(reply, None, Usage(9, 3, 1), 1 / 3, {"yes": 0.1, "no": 0.9})
            )
        return answers

    async def read(self, prompts, *, alternatives=0):
        self.asked += prompts
        return [
            Reading((p.reply,), (-0.1,), ({p.reply: -0.1},), usage=Usage(5, 0, 1)) for p in prompts
        ]

    async def close(self):
        self.closed += 1


@pytest.fixture
def replay(tmp_path):
    with Replay(tmp_path / "answers.db") as store:
        yield store


def ask(judge, *prompts, **options):
    options.setdefault("max_tokens", 8)
    return run_sync(judge.answer([Prompt(p) for p in prompts], **options), judge, "answer")


def test_the_same_question_goes_out_once_and_replays_are_equal(replay):
    counting = Counting()
    first = ask(ReplayJudge(counting, replay), "a", "b")
    again = ask(ReplayJudge(counting, replay), "a", "b")
    alone = ask(ReplayJudge(counting, replay), "b")
    assert [p.user for p in counting.asked] == ["a", "b"]
    assert not any(answer.replayed for answer in first)
    assert again == [replace(answer, replayed=True) for answer in first]
    assert alone == again[1:]


def test_without_a_judge_all_that_is_stored_replays_and_the_rest_is_an_error_that_names_it(replay):
    judge = ReplayJudge(Counting(), replay)
    run_sync(judge.check(), judge, "check")
    (first,) = ask(judge, "a")
    (reading,) = run_sync(judge.read([Prompt("q", reply="r")]), judge, "read")
    nobody = open_judge((), replay=replay)
    run_sync(nobody.check(), nobody, "check")
    assert ask(nobody, "a") == [replace(first, replayed=True)]
    (again,) = run_sync(nobody.read([Prompt("q", reply="r")]), nobody, "read")
    assert again == replace(reading, replayed=True)
    assert (nobody.name, nobody.notes) == ("counting", ("a note",))
    assert nobody.capabilities == Counting.capabilities
    with pytest.raises(JudgeError, match=r"answers\.db: no answer to latent 3 is stored.*--judge"):
        run_sync(nobody.answer([Prompt("c", label="latent 3")], max_tokens=8), nobody, "answer")


def test_a_store_of_no_model_or_several_or_another_is_told(replay):
    with pytest.raises(JudgeError, match="answers of no model"):
        open_judge((), replay=replay)
    replay.remember("one", Capabilities(), ())
    replay.remember("two", Capabilities(), ())
    with pytest.raises(JudgeError, match="one, two"):
        open_judge((), replay=replay)
    with pytest.raises(JudgeError, match="no answers of `three`, only of one, two"):
        open_judge((), "three", replay=replay)
    assert open_judge((), "two", replay=replay).name == "two"


def test_no_server_and_no_store_is_refused():
    with pytest.raises(InputError, match="give --judge URL"):
        open_judge(())


@pytest.mark.parametrize(
    "changed",
    [
        {"user": "other"},
        {"system": "other"},
        {"shots": (("q", "a"),)},
        {"attempt": 2},
        {"reply": "other"},
    ],
)
def test_another_question_has_another_key(changed):
    prompt = Prompt("user", "system")
    keys = {_key("answer", "m", p, [1], {}) for p in (prompt, replace(prompt, **changed))}
    assert len(keys) == 2


def test_other_parameters_have_another_key_and_label_and_group_do_not(replay):
    counting = Counting()
    judge = ReplayJudge(counting, replay)
    ask(judge, "a")
    ask(judge, "a", max_tokens=9)
    ask(judge, "a", choices=("yes", "no"))
    ask(judge, "a", choices=("no", "yes"))
    ask(judge, "a", choices=("yes", "no"), logprobs=True)
    ask(judge, "a", schema={"type": "array"})
    ask(ReplayJudge(counting, replay, extra={"top_k": 1}), "a")
    assert len(counting.asked) == 7
    prompts = [Prompt("a", label="x"), Prompt("a", group="y")]
    answers = run_sync(judge.answer(prompts, max_tokens=8), judge, "answer")
    assert all(answer.replayed for answer in answers)


def test_the_same_question_twice_at_once_goes_out_once(replay):
    counting = Counting(wait=0.02)
    judge = ReplayJudge(counting, replay)
    answers = ask(judge, "a", "a", "b", "a")
    assert [p.user for p in counting.asked] == ["a", "b"]
    assert [answer.text for answer in answers] == ["A", "A", "B", "A"]
    assert sum(not answer.replayed for answer in answers) == 2


def test_who_waits_for_a_question_that_is_cancelled_asks_it(replay):
    counting = Counting(wait=0.02)
    judge = ReplayJudge(counting, replay)

    async def whole():
        first = asyncio.create_task(judge.answer([Prompt("a")], max_tokens=8))
        second = asyncio.create_task(judge.answer([Prompt("a")], max_tokens=8))
        await asyncio.sleep(0.005)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    (answer,) = run_sync(whole(), judge, "answer")
    assert answer.text == "A"
    assert len(counting.asked) == 2


def test_cancelling_who_waits_leaves_the_question_on_its_way(replay):
    counting = Counting(wait=0.02)
    judge = ReplayJudge(counting, replay)

    async def whole():
        first = asyncio.create_task(judge.answer([Prompt("a")], max_tokens=8))
        second = asyncio.create_task(judge.answer([Prompt("a")], max_tokens=8))
        await asyncio.sleep(0.005)
        second.cancel()
        return await first

    assert run_sync(whole(), judge, "answer")[0].text == "A"
    assert len(counting.asked) == 1


# --- failures


def test_failures_by_the_model_are_kept_and_those_on_the_way_are_asked_again(replay):
    kinds = ("truncated", "malformed", "refused", "empty", "timeout", "server_error", "rejected")
    failing = Counting(lambda p: Failure(p.user, "why"))
    first = ask(ReplayJudge(failing, replay), *kinds)
    well = Counting()
    again = ask(ReplayJudge(well, replay), *kinds)
    assert [p.user for p in well.asked] == ["timeout", "server_error", "rejected"]
    assert again[:4] == [replace(answer, replayed=True) for answer in first[:4]]
    assert [answer.text for answer in again[4:]] == ["TIMEOUT", "SERVER_ERROR", "REJECTED"]
    # What was paid for is there for good.
    assert all(answer.replayed for answer in ask(ReplayJudge(failing, replay), *kinds))


def test_a_finished_run_with_failures_replays_with_no_judge(replay):
    judge = ReplayJudge(Counting(lambda p: Failure(p.user)), replay)
    run_sync(judge.check(), judge, "check")
    first = ask(judge, "timeout", "rejected")
    again = ask(ReplayJudge(None, replay), "timeout", "rejected")
    assert again == [replace(answer, replayed=True) for answer in first]


def test_a_failure_names_what_is_asked_about_this_time(replay):
    judge = ReplayJudge(Counting(lambda p: Failure("refused", f"{p.label}: no")), replay)

    def failure(label):
        prompts = [Prompt("a", label=label)]
        return run_sync(judge.answer(prompts, max_tokens=8), judge, "answer")[0].failure.message

    assert failure("latent 1") == "latent 1: no"
    assert failure("latent 2") == "latent 2: no"


def test_a_judge_that_breaks_down_leaves_what_was_answered(replay):
    def reply(prompt):
        return JudgeError("dead") if prompt.user == "bad" else "ok"

    judge = ReplayJudge(Counting(reply), replay)
    with pytest.raises(JudgeError, match="dead"):
        ask(judge, "a", "a", "bad", "bad")
    well = Counting()
    ask(ReplayJudge(well, replay), "a", "bad")
    assert [p.user for p in well.asked] in (["bad"], ["a", "bad"])


# --- the file


@pytest.mark.parametrize("moment", [0.001, 0.004, 0.008, 0.02])
def test_cancelling_leaves_the_store_whole_and_usable(replay, moment):
    counting = Counting(wait=0.003)
    judge = ReplayJudge(counting, replay)

    async def stream():
        for key in range(500):
            yield Job(key, Prompt(str(key)), 8)

    handled = []

    async def handle(job, answer):
        handled.append(job.key)

    async def cancelled():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(moment):
                await answer_all(judge, stream(), handle)

    run_sync(cancelled(), judge, "answer_all")
    seen = len(counting.asked)
    run_sync(answer_all(judge, stream(), handle), judge, "answer_all")
    # At most the requests that were in flight were paid again.
    assert len(counting.asked) - 500 <= judge.concurrency
    assert set(handled) == set(range(500))
    assert seen < 500
    assert replay._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_answer_is_handed_over_only_when_it_is_committed(replay, tmp_path):
    judge = ReplayJudge(Counting(), replay)

    async def handle(job, answer):
        with sqlite3.connect(tmp_path / "answers.db") as other:
            rows.append(other.execute("SELECT count(*) FROM answers").fetchone()[0])
        other.close()

    async def stream():
        for key in range(20):
            yield Job(key, Prompt(str(key)), 8)

    rows = []
    run_sync(answer_all(judge, stream(), handle), judge, "answer_all")
    assert all(count > place for place, count in enumerate(rows))


def _fill(path, start):
    with Replay(path) as replay:
        judge = ReplayJudge(Counting(), replay)
        ask(judge, *(str(i) for i in range(start, start + 60)))


def test_several_processes_share_one_file(tmp_path):
    path = tmp_path / "answers.db"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_fill, [(path, 0), (path, 30), (path, 60)])
    with Replay(path) as replay:
        counting = Counting()
        ask(ReplayJudge(counting, replay), *map(str, range(120)))
        assert counting.asked == []


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x"])
def test_a_file_that_is_something_else_is_one_line(tmp_path, content):
    path = tmp_path / "answers.db"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"answers\.db: ") as caught:
        Replay(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_another_database_is_left_alone(tmp_path):
    path = tmp_path / "run.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(InputError, match="no store of answers; name another file"):
        Replay(path)


def test_a_newer_version_and_a_damaged_answer_are_told(tmp_path):
    path = tmp_path / "answers.db"
    with Replay(path) as replay:
        ask(ReplayJudge(Counting(), replay), "a")
        replay._database.execute("UPDATE answers SET size = 9, body = x'00112233'")
        with pytest.raises(InputError, match="an answer is damaged"):
            ask(ReplayJudge(Counting(), replay), "a")
        replay._database.execute("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="version 9 is newer"):
        Replay(path)


def test_a_write_that_fails_reaches_all_who_wait_and_the_store_goes_on(replay):
    replay._database.execute("PRAGMA query_only = ON")
    with pytest.raises(InputError, match=r"answers\.db: the answers could not be written"):
        ask(ReplayJudge(Counting(), replay), "a", "b")
    replay._database.execute("PRAGMA query_only = OFF")
    assert ask(ReplayJudge(Counting(), replay), "a")[0].text == "A"


# --- bodies


@given(
    text=WORDS,
    failure=st.none() | st.builds(Failure, KINDS, WORDS),
    seconds=NUMBERS,
    odds=st.none() | st.dictionaries(WORDS, NUMBERS, max_size=3),
    label=WORDS,
)
def test_an_answer_comes_back_as_it_was(text, failure, seconds, odds, label):
    answer = Answer(None if failure else text, failure, Usage(3, 2, 1), seconds, odds)
    assert _answer_from(json.loads(_body(answer, label)), label) == replace(answer, replayed=True)


@given(st.lists(st.tuples(WORDS, NUMBERS, st.dictionaries(WORDS, NUMBERS, max_size=3))))
def test_a_reading_comes_back_as_it_was(places):
    tokens, logprobs, alternatives = zip(*places, strict=True) if places else ((), (), ())
    reading = Reading(tokens, logprobs, alternatives, None, Usage(3, 2, 1), 0.1)
    assert _reading_from(json.loads(_body(reading, "")), "") == replace(reading, replayed=True)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, st.integers(1, 3)), unique=True, max_size=6))
def test_different_prompts_have_different_keys(parts):
    keys = {
        _key("answer", "m", Prompt(user, system, reply=reply, attempt=attempt), [], {})
        for user, system, reply, attempt in parts
    }
    assert len(keys) == len(parts)
