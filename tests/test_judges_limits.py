"""How many requests a server is sent at once: a simulated server, and a real one that refuses."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.judges.base import Job, Prompt, answer_all, run_sync
from glossator.judges.limits import Limit
from glossator.judges.openai_server import OpenAIJudge
from judge_servers import ChatServer, Reply

# --- a server in virtual time


def simulate(limit, n, latency, refuses=lambda at_once: False):
    """Put `n` requests to a server as the limit allows; gives the places over time.

    `latency(at_once)` is what an answer takes that is sent among so many; a request that the server
    `refuses` comes back at once and is sent again.
    """
    now, order, in_flight, history = 0.0, itertools.count(), [], []
    limit._clock = lambda: now
    left = n
    while left or in_flight:
        while left and len(in_flight) < limit.now:
            left -= 1
            at_once = len(in_flight) + 1
            no = refuses(at_once)
            end = now + (0.001 if no else latency(at_once))
            heapq.heappush(in_flight, (end, next(order), now, no))
        limit._full = limit._full or left > 0
        now, _, begun, no = heapq.heappop(in_flight)
        if no:
            limit.pressed(begun)
            left += 1
        else:
            limit.answered("kind", begun)
        history.append(limit.now)
    return history, now


def test_places_grow_to_the_most_where_the_server_keeps_up():
    history, _ = simulate(Limit(256), 4_000, lambda at_once: 1.0)
    assert history[0] == 16
    assert history[-1] == 256
    # Doubling: five turns, none longer than its places.
    assert history.index(256) <= 2 * 256


def test_a_batching_engine_whose_latency_grows_in_proportion_is_kept_busy():
    """A GPU that reads one prompt at a time: more in flight is no gain, and no loss either."""
    history, _ = simulate(Limit(128), 6_000, lambda at_once: 0.1 + 0.01 * at_once)
    assert history[-1] == 128


def test_a_server_that_thrashes_is_eased():
    def latency(at_once):
        return 1.0 if at_once <= 32 else 1.0 * (at_once / 32) ** 3

    history, taken = simulate(Limit(512), 8_000, latency)
    assert max(history[len(history) // 2 :]) < 96
    fixed = Limit(512)
    fixed.now = 512
    fixed._turn = lambda: None
    assert taken < 0.5 * simulate(fixed, 8_000, latency)[1]


def test_a_server_that_turns_requests_away_is_sent_about_what_it_takes():
    history, _ = simulate(Limit(256), 6_000, lambda _: 1.0, lambda at_once: at_once > 40)
    settled = history[len(history) // 2 :]
    assert min(settled) >= 20
    assert max(settled) <= 41
    assert sum(settled) / len(settled) > 25


def test_answers_that_come_close_to_the_deadline_ease_the_server():
    deadline = 10.0
    limit = Limit(256, deadline=deadline)
    history, _ = simulate(limit, 8_000, lambda at_once: 0.1 * at_once)
    assert max(history) * 0.1 <= deadline
    assert 30 < history[-1] <= 60


def test_requests_of_other_kinds_are_no_slower_server():
    """Long answers after short ones."""
    now = 0.0
    limit = Limit(16, clock=lambda: now)
    for kind, seconds in [("one token", 0.1), ("explanation", 5.0), ("one token", 0.1)] * 4:
        for _ in range(40):
            now += seconds
            limit._full = True
            limit.answered(kind, now - seconds)
    assert limit.now == 16


def test_longer_answers_of_the_same_kind_cost_one_easing_at_most():
    seconds = iter([0.1] * 2_000 + [1.0] * 3_000)
    history, _ = simulate(Limit(64), 5_000, lambda _: next(seconds))
    assert min(history[200:]) >= 48
    assert history[-1] == 64


def test_requests_sent_before_a_cut_cut_no_more():
    limit = Limit(64, clock=lambda: 5.0)
    for begun in (1.0, 2.0, 3.0):
        limit.pressed(begun)
    assert limit.now == 8
    limit.pressed(5.0)
    assert limit.now == 4


@settings(max_examples=60)
@given(
    most=st.integers(1, 200),
    events=st.lists(
        st.one_of(st.just("press"), st.floats(1e-6, 1e6), st.integers(1, 50)), max_size=80
    ),
)
def test_places_stay_between_one_and_the_most(most, events):
    now = 0.0
    limit = Limit(most, deadline=100.0, clock=lambda: now)
    for event in events:
        limit._full = True
        if event == "press":
            limit.pressed(now)
        else:
            begun, now = now, now + float(event)
            for _ in range(17):
                limit.answered("kind", begun)
        assert 1 <= limit.now <= most


# --- places


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["wait", "cancel", "raise", "cut"]), st.integers(0, 9)),
        max_size=40,
    )
)
def test_no_place_is_lost_or_made_up(events):
    async def whole():
        limit = Limit(6)
        inside, most = 0, 0
        gates, tasks = [], []

        async def work(gate):
            nonlocal inside, most
            await limit.enter()
            inside += 1
            most = max(most, inside)
            try:
                await gate.wait()
            finally:
                inside -= 1
                limit.leave()

        for what, number in events:
            gates.append(asyncio.Event())
            tasks.append(asyncio.create_task(work(gates[-1])))
            await asyncio.sleep(0)
            if what == "cancel":
                tasks[number % len(tasks)].cancel()
            elif what == "raise":
                gates[number % len(gates)].set()
            elif what == "cut":
                limit.pressed(time.perf_counter())
            await asyncio.sleep(0)
        for gate in gates:
            gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 6
        assert inside == 0
        assert limit._in_flight == 0
        assert not [place for place in limit._queue if not place.done()]
        await asyncio.wait_for(limit.enter(), 1.0)

    asyncio.run(whole())


# --- over HTTP


def test_a_server_that_takes_few_at_once_answers_all_and_turns_few_away():
    """All are answered, and most attempts are."""
    room, inside, lock = 5, 0, threading.Lock()

    def reply(request):
        nonlocal inside
        with lock:
            inside += 1
            full = inside > room
        if not full:
            time.sleep(0.01)
        with lock:
            inside -= 1
        return Reply(status=429) if full else Reply(request.question)

    async def stream():
        for key in range(400):
            yield Job(key, Prompt(str(key)), 8)

    answers = {}

    async def handle(job, answer):
        answers[job.key] = answer.text

    with ChatServer(reply) as server:
        judge = OpenAIJudge(server.url, server.model, concurrency=64, backoff=0.01, attempts=30)
        run_sync(answer_all(judge, stream(), handle), judge, "answer_all")
        refused = len(server.requests) - 400
    assert answers == {key: str(key) for key in range(400)}
    assert judge._limit.now <= 8
    assert refused < 200


@pytest.mark.parametrize("concurrency", [1, 3])
def test_places_are_never_more_than_allowed(concurrency):
    with ChatServer(lambda _: Reply("ok")) as server:
        judge = OpenAIJudge(server.url, server.model, concurrency=concurrency)
        prompts = [Prompt(str(i)) for i in range(80)]
        run_sync(judge.answer(prompts, max_tokens=4), judge, "answer")
        assert server.most_at_once <= concurrency
