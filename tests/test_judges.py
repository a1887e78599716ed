from __future__ import annotations

import asyncio
import json
import logging
import math

import pytest

from glossator.errors import InputError, JudgeError
from glossator.judges import Prompt, open_judge, run_sync
from glossator.judges.base import Answer, Failure, Job, Usage, answer_all
from glossator.judges.openai_server import OpenAIJudge
from judge_servers import ChatServer, Reply, dead_port

KEY = "sk-glossator-test-0123456789"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.delenv("GLOSSATOR_JUDGE_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Sleeper:
    """Waits for nothing and remembers for how long it was asked to."""

    def __init__(self):
        self.waits: list[float] = []

    async def __call__(self, seconds):
        self.waits.append(seconds)
        await asyncio.sleep(0)


def judge_for(server, model="known", **options):
    options.setdefault("sleep", Sleeper())
    return OpenAIJudge(server.url, model, **options)


def ask(judge, *prompts, check=False, **options):
    options.setdefault("max_tokens", 16)

    async def whole():
        if check:
            await judge.check()
        return await judge.answer([Prompt(text, label="latent 7") for text in prompts], **options)

    return run_sync(whole(), judge, "answer")


def checked(judge):
    return run_sync(judge.check(), judge, "check")


def by_attempt(*replies):
    """Answers the first requests with `replies` in turn and all later ones with the last."""
    return lambda request: replies[min(request.number, len(replies) - 1)]


# --- the plain way


def test_answers_come_in_the_order_of_the_prompts():
    with ChatServer(lambda r: Reply(r.question.upper(), cached=2)) as server:
        answers = ask(judge_for(server), *[f"q{i}" for i in range(100)])
    assert [a.text for a in answers] == [f"Q{i}" for i in range(100)]
    assert all(a.usage == Usage(1, 2, 1) and a.failure is None and a.seconds > 0 for a in answers)


def test_requests_carry_temperature_zero_the_turns_and_the_schema():
    schema = {"type": "array"}
    prompt = Prompt("now", system="be brief", shots=(("a", "b"),))
    with ChatServer(lambda _: Reply("ok")) as server:
        judge = judge_for(server, extra={"top_k": 1})
        run_sync(judge.answer([prompt], schema=schema, max_tokens=9), judge, "answer")
        (request,) = server.requests
    body = request.body
    assert [(t["role"], t["content"]) for t in body["messages"]] == [
        ("system", "be brief"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "now"),
    ]
    assert (body["temperature"], body["max_tokens"], body["top_k"]) == (0.0, 9, 1)
    assert request.schema == schema


def test_no_more_requests_are_in_flight_than_allowed():
    with ChatServer(lambda _: Reply("ok")) as server:
        ask(judge_for(server, concurrency=3), *map(str, range(60)))
        assert 1 <= server.most_at_once <= 3


def test_the_same_judge_works_in_one_event_loop_after_another():
    with ChatServer(lambda _: Reply("ok")) as server:
        judge = judge_for(server)
        for _ in range(3):
            assert ask(judge, "again", check=True)[0].text == "ok"


def test_choices_and_schema_together_are_refused():
    with ChatServer(lambda _: Reply("ok")) as server:
        with pytest.raises(InputError, match="exclude each other"):
            ask(judge_for(server), "x", choices=("yes", "no"), schema={})
        assert server.requests == []


def test_with_logprobs_the_likelier_choice_wins_and_the_probabilities_add_up():
    tokens = {"Y": math.log(0.2), "No": math.log(0.6), "Maybe": math.log(0.2)}
    with ChatServer(lambda _: Reply("Yes", logprobs=tokens, finish="length")) as server:
        (answer,) = ask(judge_for(server), "x", choices=("Yes", "No"), logprobs=True)
        assert server.requests[0].body["structured_outputs"] == {"choice": ["Yes", "No"]}
    assert answer.text == "No"
    assert answer.probabilities == pytest.approx({"Yes": 0.25, "No": 0.75})


def test_missing_logprobs_leave_the_choice_without_probabilities():
    with ChatServer(lambda _: Reply("No")) as server:
        (answer,) = ask(judge_for(server), "x", choices=("Yes", "No"), logprobs=True)
    assert (answer.text, answer.probabilities) == ("No", None)


def test_a_choice_that_was_not_offered_is_malformed():
    with ChatServer(lambda _: Reply("Perhaps")) as server:
        (answer,) = ask(judge_for(server), "x", choices=("Yes", "No"))
    assert answer.failure.kind == "malformed"


def test_an_answer_is_a_text_or_a_failure_and_never_both():
    with pytest.raises(ValueError, match="either"):
        Answer()
    with pytest.raises(ValueError, match="either"):
        Answer("x", Failure("empty"))


# --- the start-up question


def test_the_only_model_served_is_taken_where_none_is_named():
    with ChatServer(lambda _: Reply("ok"), models=("solo",)) as server:
        judge = judge_for(server, None)
        checked(judge)
    assert judge.name == "solo"


def test_several_models_and_no_choice_is_an_error_that_lists_them():
    several = ChatServer(lambda _: Reply("ok"), models=("one", "two"))
    with several as server, pytest.raises(JudgeError, match=r"one, two.*--judge-model"):
        checked(judge_for(server, None))


def test_a_check_of_vllm_asks_four_questions_and_a_second_one_none():
    with ChatServer(lambda _: Reply("ok")) as server:
        judge = judge_for(server)
        checked(judge)
        asked = len(server.requests)
        checked(judge)
        assert len(server.requests) == asked == 4


def test_a_refused_connection_is_one_line_with_the_url_and_the_remedy():
    url = f"http://127.0.0.1:{dead_port()}/v1"
    with pytest.raises(JudgeError) as caught:
        checked(OpenAIJudge(url, "known", sleep=Sleeper()))
    line = str(caught.value)
    assert url in line
    assert "start the server" in line
    assert "\n" not in line


def test_a_refused_key_is_one_line_that_names_the_variable_and_not_the_key(monkeypatch):
    monkeypatch.setenv("GLOSSATOR_JUDGE_API_KEY", KEY)
    guarded = ChatServer(lambda _: Reply("ok"), key="another")
    with guarded as server, pytest.raises(JudgeError, match="GLOSSATOR_JUDGE_API_KEY") as caught:
        checked(judge_for(server))
    assert KEY not in str(caught.value)
    assert "401" in str(caught.value)


def test_an_unknown_model_is_one_line_that_lists_the_known_ones():
    honest = ChatServer(lambda _: Reply("ok"))
    with honest as server, pytest.raises(JudgeError, match=r"no model `strange`.*serves known"):
        checked(judge_for(server, "strange"))


def test_a_server_that_only_fails_is_one_line():
    with ChatServer(lambda _: Reply("ok")) as server:
        server.respond = lambda handler, body, request: server.send(handler, 500, {})
        with pytest.raises(JudgeError, match=r"cannot be used.*500"):
            checked(judge_for(server))


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://h:x/v1"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(InputError, match="not a URL"):
        open_judge(url)


def test_a_url_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(InputError) as caught:
        open_judge("http://me:hunter2@host/v1")
    assert "hunter2" not in str(caught.value)


def test_v1_is_added_where_the_url_has_no_path():
    assert OpenAIJudge("http://host:8000/").url == "http://host:8000/v1"
    assert OpenAIJudge("http://host/api/v2/").url == "http://host/api/v2"


# --- faults that pass


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=408),
        Reply(status=409),
        Reply(status=429),
        Reply(status=500),
        Reply(status=503),
        Reply(reset=True),
        Reply(raw=b'{"choices": [', promised=1000),
        Reply(raw=b'{"choices": [{"ind'),
        Reply(raw=b"<html>hello</html>", content_type="text/html"),
        Reply(raw=b'{"object": "list"}'),
        Reply(raw=b'{"choices": []}'),
        Reply(raw=b"[]"),
        Reply(raw=b"null"),
    ],
    ids=lambda reply: f"{reply.status}-{(reply.raw or b'')[:12]!r}",
)
def test_a_fault_that_passes_costs_a_retry_and_no_answer(fault):
    with ChatServer(by_attempt(fault, fault, Reply("ok"))) as server:
        sleeper = Sleeper()
        (answer,) = ask(judge_for(server, sleep=sleeper), "x")
        assert len(server.requests) == 3
    assert answer.text == "ok"
    assert len(sleeper.waits) == 2


def test_waits_double_and_stay_below_the_longest():
    with ChatServer(by_attempt(*[Reply(status=500)] * 7, Reply("ok"))) as server:
        sleeper = Sleeper()
        ask(judge_for(server, sleep=sleeper, backoff=1.0, longest_wait=8.0), "x")
    full = [1, 2, 4, 8, 8, 8, 8]
    assert all(0.75 * f <= w <= f for w, f in zip(sleeper.waits, full, strict=True))


def test_retry_after_is_heeded():
    busy = Reply(status=429, headers={"Retry-After": "17"})
    with ChatServer(by_attempt(busy, Reply("ok"))) as server:
        sleeper = Sleeper()
        (answer,) = ask(judge_for(server, sleep=sleeper), "x")
    assert answer.text == "ok"
    assert sleeper.waits == [17.0]


@pytest.mark.parametrize("said", ["nan", "soon", "", "-"])
def test_a_retry_after_that_says_nothing_is_an_ordinary_wait(said):
    busy = Reply(status=429, headers={"Retry-After": said})
    with ChatServer(by_attempt(busy, Reply("ok"))) as server:
        sleeper = Sleeper()
        ask(judge_for(server, sleep=sleeper, backoff=1.0), "x")
    assert 0.75 <= sleeper.waits[0] <= 1.0


def test_a_retry_after_date_is_heeded():
    busy = Reply(status=503, headers={"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"})
    with ChatServer(by_attempt(busy, Reply("ok"))) as server:
        sleeper = Sleeper()
        ask(judge_for(server, sleep=sleeper), "x")
    assert sleeper.waits == [600.0]


# --- faults that stay


@pytest.mark.parametrize(
    ("reply", "kind", "requests"),
    [
        (Reply(status=429, error="slow down"), "rate_limited", 4),
        (Reply(status=500), "server_error", 4),
        (Reply(reset=True), "connection", 4),
        (Reply(raw=b"nonsense"), "server_error", 4),
        (Reply(status=400, error="the prompt is too long"), "rejected", 1),
        (Reply(status=422), "rejected", 1),
        (Reply(status=403), "refused", 1),
        (Reply("half a", finish="length"), "truncated", 1),
        (Reply("", finish="content_filter"), "refused", 1),
        (Reply("  \n"), "empty", 1),
        (Reply(None), "empty", 1),
    ],
)
def test_a_fault_that_stays_is_a_typed_failure_of_that_prompt_alone(reply, kind, requests):
    with ChatServer(lambda r: reply if r.question == "bad" else Reply("ok")) as server:
        answers = ask(judge_for(server, attempts=4), "good", "bad", "fine")
        assert sum(r.question == "bad" for r in server.requests) == requests
    assert [a.text for a in answers] == ["ok", None, "ok"]
    assert answers[1].failure.kind == kind


def test_a_failure_names_what_was_asked_about():
    with ChatServer(lambda _: Reply(status=400, error="the prompt is too long")) as server:
        (answer,) = ask(judge_for(server), "x")
    assert str(answer.failure) == "rejected: latent 7: status 400: the prompt is too long"


def test_a_server_that_is_slow_at_first_is_not_taken_for_none():
    class Waking(ChatServer):
        slow = 1

        def refuses(self, handler):
            if handler.command == "GET" and self.slow:
                self.slow -= 1
                self.over.wait(1.0)
            return super().refuses(handler)

    with Waking(lambda _: Reply("yes")) as server:
        judge = OpenAIJudge(server.url, timeout=0.4)
        run_sync(judge.check(), judge, "judge.check")
        assert judge.name == server.model


def test_a_stalling_server_meets_the_deadline_three_times_at_most():
    with ChatServer(lambda _: Reply(stall=True)) as server:
        (answer,) = ask(judge_for(server, timeout=0.05), "x")
        assert len(server.requests) == 3
    assert answer.failure.kind == "timeout"


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_server_that_closes_its_doors_ends_the_run(status):
    closed = ChatServer(lambda _: Reply(status=status))
    with closed as server, pytest.raises(JudgeError, match=str(status)):
        ask(judge_for(server), "x", "y")


def test_an_empty_account_ends_the_run_without_waiting():
    with ChatServer(lambda _: Reply(status=429, code="insufficient_quota")) as server:
        sleeper = Sleeper()
        with pytest.raises(JudgeError):
            ask(judge_for(server, sleep=sleeper), "x")
        assert sleeper.waits == []


def test_a_dead_server_ends_the_run_after_so_many_failures_in_a_row():
    with ChatServer(lambda r: Reply("ok") if r.number < 10 else Reply(reset=True)) as server:
        judge = judge_for(server, concurrency=1, attempts=2, dead_after=3)
        with pytest.raises(JudgeError, match="3 requests in a row failed"):
            ask(judge, *map(str, range(50)))
        assert len(server.requests) == 10 + 3 * 2


def test_failures_between_answers_do_not_end_the_run():
    with ChatServer(lambda r: Reply("ok" if int(r.question) % 3 else None)) as server:
        server.reply = lambda r: Reply(reset=True) if int(r.question) % 3 else Reply("ok")
        judge = judge_for(server, concurrency=1, attempts=1, dead_after=3)
        answers = ask(judge, *map(str, range(30)))
    assert sum(a.text == "ok" for a in answers) == 10


# --- the key


def test_the_key_is_sent_and_stands_nowhere_else(monkeypatch, caplog, capfd):
    monkeypatch.setenv("GLOSSATOR_JUDGE_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-second-choice")
    caplog.set_level(logging.DEBUG)
    echo = Reply(status=400, error=f"what is {KEY}?")
    with ChatServer(by_attempt(echo, Reply(f"your key is {KEY}")), key=KEY) as server:
        judge = judge_for(server, concurrency=1)
        answers = ask(judge, "x", "y")
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert answers[0].failure is not None
    shown = [repr(judge), str(vars(judge) and judge), *map(repr, answers), caplog.text]
    shown += list(capfd.readouterr())
    assert not any(KEY in text for text in shown)
    assert answers[1].text == "your key is [key]"


def test_the_second_variable_counts_where_the_first_is_not_set(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer(lambda _: Reply("ok"), key=KEY) as server:
        assert ask(judge_for(server), "x", check=True)[0].text == "ok"


# --- the queue


async def stream(n):
    for key in range(n):
        yield Job(key, Prompt(str(key)), 16)


def test_the_queue_draws_no_more_jobs_than_there_are_places():
    drawn, handled, ahead = 0, 0, []

    async def counted():
        nonlocal drawn
        async for job in stream(40):
            drawn += 1
            ahead.append(drawn - handled)
            yield job

    async def handle(job, answer):
        nonlocal handled
        handled += 1

    with ChatServer(lambda _: Reply("ok")) as server:
        judge = judge_for(server, concurrency=4)
        run_sync(answer_all(judge, counted(), handle), judge, "answer_all")
    assert handled == 40
    assert max(ahead) <= 4


def test_the_queue_keeps_what_was_handled_when_the_judge_dies():
    handled = []

    async def handle(job, answer):
        handled.append(job.key)

    with ChatServer(lambda r: Reply("ok") if r.number < 20 else Reply(reset=True)) as server:
        judge = judge_for(server, concurrency=4, attempts=1, dead_after=2)
        with pytest.raises(JudgeError):
            run_sync(answer_all(judge, stream(100), handle), judge, "answer_all")
    assert len(handled) >= 20 - 4
    assert len(set(handled)) == len(handled)


def test_a_job_may_be_asked_again_in_its_place():
    seen = []

    async def handle(job, answer):
        seen.append((job.key, answer.text))
        return Job(job.key + 100, job.prompt, 16) if job.key < 100 else None

    with ChatServer(lambda r: Reply(r.question)) as server:
        judge = judge_for(server, concurrency=2)
        run_sync(answer_all(judge, stream(3), handle), judge, "answer_all")
    assert sorted(seen) == [(0, "0"), (1, "1"), (2, "2"), (100, "0"), (101, "1"), (102, "2")]


def test_a_cancelled_queue_leaves_no_request_running():
    async def handle(job, answer):
        return None

    async def whole(judge):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await answer_all(judge, stream(100), handle)
        assert len(asyncio.all_tasks()) == 1

    with ChatServer(lambda _: Reply(stall=True)) as server:
        judge = judge_for(server, concurrency=4)
        run_sync(whole(judge), judge, "answer_all")


def test_the_sync_twin_inside_an_event_loop_names_the_async_one():
    async def whole():
        judge = OpenAIJudge("http://127.0.0.1:1/v1", "known")
        run_sync(judge.check(), judge, "ascore")

    with pytest.raises(InputError, match="await ascore"):
        asyncio.run(whole())


def test_records_hold_json_and_hash():
    assert json.dumps(Prompt("x", shots=(("a", "b"),)).messages())
    assert len({Failure("empty"), Failure("empty"), Failure("timeout")}) == 2
