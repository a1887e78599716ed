"""A hostile server behind a store of answers: nothing is lost, paid twice or made a score."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter

import pytest

from glossator.judges import Capabilities, Prompt, Replay, ReplayJudge, open_judge, run_sync
from glossator.judges.base import Job, answer_all
from glossator.judges.openai_server import OpenAIJudge
from judge_servers import ChatServer, Reply, coin

CHOICES = ("yes", "no")
N = 300


async def at_once(_):
    await asyncio.sleep(0)


def truth(question):
    return "yes" if coin(0.5, question) else "no"


def honest(request):
    said = truth(request.question)
    other = CHOICES[said == "yes"]
    return Reply(said, logprobs={said: math.log(0.9), other: math.log(0.1)})


def jobs(n=N):
    return [Job(i, Prompt(f"q{i}", label=f"latent {i}"), 4, choices=CHOICES) for i in range(n)]


def put(judge, n=N, seconds=None):
    """All jobs; gives what was handed over, by job."""
    said = {}

    async def stream():
        for job in jobs(n):
            yield job

    async def handle(job, answer):
        assert job.key not in said
        said[job.key] = answer

    async def whole():
        await judge.check()
        try:
            async with asyncio.timeout(seconds):
                await answer_all(judge, stream(), handle)
        except TimeoutError:
            assert seconds is not None

    run_sync(whole(), judge, "answer_all")
    return said


def assert_right(said, n=N):
    assert set(said) == set(range(n))
    for key, answer in said.items():
        assert answer.failure is None, answer.failure
        assert answer.text == truth(f"q{key}")
        assert answer.probabilities[answer.text] == pytest.approx(0.9)


def judge_for(server, replay, **options):
    options = {"sleep": at_once, "concurrency": 8, **options}
    return open_judge(server.url, replay=replay, **options)


@pytest.fixture
def replay(tmp_path):
    with Replay(tmp_path / "answers.db") as store:
        yield store


FAULTS = [
    Reply(reset=True),
    Reply(status=408),
    Reply(status=429, headers={"Retry-After": "3"}),
    Reply(status=429, headers={"Retry-After": "soon"}),
    Reply(status=429, headers={"Retry-After": "nan"}),
    Reply(status=500),
    Reply(status=503),
    Reply(raw=b'{"choices": [{"index": 0, "mess', promised=400),
    Reply(raw=b'{"choices": [{"index": 0, "mess'),
    Reply(raw=b'\xff\xfe{"choices"'),
    Reply(raw=b"[" * 100_000),
    Reply(raw=b'{"error": {"message": "upstream"}}'),
    Reply(raw=b"<html>busy</html>", content_type="text/html"),
    Reply("yes", id="chatcmpl-of-another"),
    Reply("yes", model="of-another"),
    Reply("ye", finish="abort"),
]


def test_every_fault_that_passes_at_random_leaves_every_answer_right(replay):
    """Four of ten attempts go wrong, in every way at once."""

    def hostile(request):
        attempts[request.question] += 1
        seed = (request.question, attempts[request.question])
        if coin(0.4, *seed):
            at = sum(coin(0.5, i, *seed) << i for i in range(8))
            return FAULTS[at % len(FAULTS)]
        return honest(request)

    attempts = Counter()
    with ChatServer(hostile, logprobs=True) as server:
        said = put(judge_for(server, replay, attempts=30, dead_after=200))
        assert_right(said)
        before = len(server.asked)
        again = put(judge_for(server, replay))
        assert len(server.asked) == before
    assert all(answer.replayed for answer in again.values())
    assert_right(put(open_judge((), replay=replay)))


def test_answers_that_are_none_are_missing_alone_and_kept(replay):
    """A choice that was not offered, none at all, no probabilities."""
    wrong = {
        "q3": Reply("maybe"),
        "q4": Reply("yes, no"),
        "q5": Reply(None),
        "q6": Reply("no", finish="content_filter"),
    }

    def reply(request):
        if request.question == "q7":
            return Reply(truth("q7"))
        return wrong.get(request.question) or honest(request)

    with ChatServer(reply, logprobs=True) as server:
        said = put(judge_for(server, replay), 20)
        kinds = {key: answer.failure.kind for key, answer in said.items() if answer.failure}
        assert kinds == {3: "malformed", 4: "malformed", 5: "empty", 6: "refused"}
        assert (said[7].text, said[7].probabilities) == (truth("q7"), None)
        assert len(server.asked) == 20
        put(judge_for(server, replay), 20)
        assert len(server.asked) == 20


def test_a_prompt_that_is_too_long_fails_alone_and_names_its_latent(replay):
    def reply(request):
        if request.question == "q9":
            return Reply(status=400, error="maximum context length is 4096 tokens")
        return honest(request)

    with ChatServer(reply, logprobs=True) as server:
        said = put(judge_for(server, replay), 20)
    failed = said.pop(9)
    assert str(failed.failure).startswith("rejected: latent 9: ")
    assert "4096" in failed.failure.message
    assert all(answer.failure is None for answer in said.values())


def test_half_characters_of_a_server_are_stored_as_question_marks(replay):
    """JSON may hold a lone surrogate; no database takes one."""
    half = b'{"choices": [{"message": {"content": "half \\ud83d"}, "finish_reason": "stop"}]}'
    refusal = b'{"error": {"message": "half \\ud83d"}}'
    said = iter([Reply(raw=half), Reply(raw=refusal, status=400)])
    with ChatServer(lambda _: next(said)) as server:
        judge = OpenAIJudge(server.url, "known", sleep=at_once, concurrency=1)
        prompts = [Prompt("a"), Prompt("b")]
        text, failed = run_sync(judge.answer(prompts, max_tokens=9), judge, "answer")
    assert text.text == "half ?"
    assert failed.failure.message.endswith("half ?")


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3])
def test_cancelling_leaves_the_store_whole_and_pays_again_what_was_in_flight(replay, seconds):
    def slow(request):
        time.sleep(0.005)
        return honest(request)

    with ChatServer(slow, logprobs=True) as server:
        judge = judge_for(server, replay)
        before = put(judge, seconds=seconds)
        said = put(judge)
        assert_right(said)
        assert len(server.asked) - N <= judge.concurrency
        assert all(said[key].replayed for key in before)
        assert most_paid(server) <= 2
    assert replay._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def most_paid(server):
    return max(Counter(request.question for request in server.asked).values())


@pytest.mark.parametrize("fault", [Reply(reset=True), Reply(stall=True), Reply(status=500)])
def test_a_server_that_dies_in_mid_run_is_asked_only_for_the_rest(replay, fault):
    def dying(request):
        return honest(request) if request.number <= 60 else fault

    options = {"attempts": 2, "dead_after": 4, "timeout": 0.5}
    with ChatServer(dying, logprobs=True) as server:
        with pytest.raises(Exception, match="4 requests in a row failed"):
            put(judge_for(server, replay, **options))
        server.reply = honest
        before = len(server.asked)
        assert_right(put(judge_for(server, replay, timeout=30.0)))
        # In flight when it died: answered perhaps, but never handed over.
        assert N - 60 <= len(server.asked) - before <= N - 60 + 8


def test_two_pools_of_hostile_servers_answer_all(replay):
    def hostile(request):
        return Reply(reset=True) if coin(0.3, request.question, request.number) else honest(request)

    with ChatServer(hostile, logprobs=True) as one, ChatServer(hostile, logprobs=True) as two:
        pool = open_judge(
            [one.url, two.url], replay=replay, sleep=at_once, concurrency=4, dead_after=50
        )
        assert_right(put(pool))


# --- what it costs us


class Client:
    """The client library's place: it answers at once."""

    def __init__(self):
        top = [{"token": word, "logprob": -9999.0} for word in map(str, range(18))]
        top += [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -2.3}]
        place = {"token": "yes", "logprob": -0.1, "top_logprobs": top}
        message = {"role": "assistant", "content": "yes"}
        choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": [place]}}
        usage = {"prompt_tokens": 300, "completion_tokens": 1}
        self.reply = {"model": "known", "choices": [choice], "usage": usage}

    async def post(self, path, *, cast_to, body, options):
        await asyncio.sleep(0)
        return self.reply | {"id": options["headers"]["X-Request-Id"]}

    async def close(self):
        pass


def test_our_own_cpu_per_judged_prompt_is_a_fraction_of_a_millisecond(replay):
    inner = OpenAIJudge("http://127.0.0.1:9/v1", "known", concurrency=64)
    inner.capabilities = Capabilities(choices=True, logprobs=True)
    judge, n, handled = ReplayJudge(inner, replay), 4_000, 0

    async def stream():
        for i in range(n):
            prompt = Prompt("y " * 200 + str(i), "x " * 1_000, (("q " * 100, "yes"),))
            yield Job(i, prompt, 1, choices=CHOICES)

    async def handle(job, answer):
        nonlocal handled
        handled += answer.probabilities["yes"] > 0.5

    async def whole():
        inner._connection.renew()
        inner._connection._client = Client()
        await answer_all(judge, stream(), handle)

    begun = time.process_time()
    run_sync(whole(), judge, "answer_all")
    spent = time.process_time() - begun
    assert handled == n
    # Measured: 0.09 ms.
    assert spent / n < 0.5e-3
