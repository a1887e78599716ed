"""Several servers as one judge: groups stay together, a dead server's share moves to the others."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import ExitStack

import pytest

from glossator.errors import InputError, JudgeError
from glossator.judges import (
    Answer,
    Capabilities,
    Failure,
    Prompt,
    Reading,
    Replay,
    open_judge,
    run_sync,
)
from glossator.judges.base import Job, answer_all
from glossator.judges.pool import Pool
from judge_servers import ChatServer, Reply, dead_port


async def at_once(_):
    await asyncio.sleep(0)


class Scripted:
    """A judge in this process; what it does with a prompt is a function."""

    name, notes = "one", ()
    capabilities = Capabilities(choices=True, schemas=True)

    def __init__(self, label, does=lambda prompt: prompt.user, concurrency=8, wait=0.001):
        self.label, self.does, self.concurrency, self.wait = label, does, concurrency, wait
        self.asked, self.places = [], {}

    def __repr__(self):
        return self.label

    async def check(self):
        pass

    async def answer(self, prompts, **_):
        (prompt,) = prompts
        loop = asyncio.get_running_loop()
        async with self.places.setdefault(loop, asyncio.Semaphore(self.concurrency)):
            await asyncio.sleep(self.wait)
            self.asked.append(prompt)
            said = self.does(prompt)
        if isinstance(said, Exception):
            raise said
        return [Answer(failure=said) if isinstance(said, Failure) else Answer(said)]

    async def read(self, prompts, *, alternatives=0):
        self.asked += prompts
        return [Reading((prompt.reply,), (-1.0,)) for prompt in prompts]

    async def close(self):
        pass


def grouped(groups, size):
    return [Prompt(f"{g}.{i}", group=f"layer/{g}") for g in range(groups) for i in range(size)]


def put(judge, prompts):
    """All prompts through the queue, as a scorer does it; gives texts or failures by prompt."""
    said = {}

    async def stream():
        for prompt in prompts:
            yield Job(prompt, prompt, 8)

    async def handle(job, answer):
        assert job.key not in said
        said[job.key] = answer.text or answer.failure.kind

    async def whole():
        await judge.check()
        await answer_all(judge, stream(), handle)

    run_sync(whole(), judge, "answer_all")
    return said


def homes(servers):
    found = defaultdict(set)
    for server in servers:
        for prompt in server.asked:
            found[prompt.group].add(server)
    return found


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_group_stays_on_one_server_and_all_servers_are_busy(n):
    servers = [Scripted(f"server{i}") for i in range(n)]
    prompts = grouped(24, 20)
    assert put(Pool(servers), prompts) == {prompt: prompt.user for prompt in prompts}
    assert {len(places) for places in homes(servers).values()} == {1}
    shares = [len(server.asked) / len(prompts) for server in servers]
    assert min(shares) > 0.4 / n


def test_a_group_finds_its_server_again_in_another_process():
    """One group at a time, so that no server is full: the place is the hash's alone."""
    first, second = ([Scripted(f"server{i}") for i in range(4)] for _ in range(2))
    for servers in (first, list(reversed(second))):
        pool = Pool(servers)
        for group in range(40):
            put(pool, [Prompt(str(group), group=str(group))])
    assert [s.asked for s in first] == [s.asked for s in second]
    assert all(server.asked for server in first)


def test_prompts_of_no_group_go_where_the_fewest_wait():
    servers = [Scripted("fast", wait=0.001), Scripted("slow", wait=0.05)]
    put(Pool(servers), [Prompt(str(i)) for i in range(200)])
    assert len(servers[0].asked) > len(servers[1].asked)


def test_readings_go_to_the_group_s_server_too():
    servers = [Scripted("a"), Scripted("b")]
    pool = Pool(servers)
    prompts = [Prompt(str(i), group="g", reply="r") for i in range(9)]
    readings = run_sync(pool.read(prompts), pool, "read")
    assert len(readings) == 9
    assert sorted(len(server.asked) for server in servers) == [0, 9]


# --- servers that break down


@pytest.mark.parametrize("moment", [0, 30, 100])
def test_a_dead_servers_share_moves_to_the_others_and_nothing_is_lost(moment):
    def dies(prompt):
        return prompt.user if len(dead.asked) <= moment else JudgeError("dead")

    dead = Scripted("dead", dies)
    servers = [dead, Scripted("b"), Scripted("c")]
    pool = Pool(servers)
    prompts = grouped(24, 20)
    assert put(pool, prompts) == {prompt: prompt.user for prompt in prompts}
    assert any("dead broke down" in note for note in pool.notes)
    # In flight when it died, at most, were asked twice.
    asked = Counter(prompt for server in servers for prompt in server.asked)
    assert sum(asked.values()) - len(prompts) <= dead.concurrency


def test_a_server_that_comes_back_is_used_again():
    now, well = 0.0, False

    def does(prompt):
        return prompt.user if well else JudgeError("dead")

    servers = [Scripted("a", does), Scripted("b")]
    pool = Pool(servers, clock=lambda: now)
    put(pool, grouped(12, 5))
    tried = len(servers[0].asked)
    put(pool, grouped(12, 5))
    assert len(servers[0].asked) == tried
    now, well = 61.0, True
    put(pool, [Prompt(str(i), group=f"new{i}") for i in range(40)])
    assert len(servers[0].asked) > tried + 5


def test_what_one_server_cannot_deliver_is_asked_of_another():
    servers = [Scripted("a", lambda _: Failure("connection")), Scripted("b")]
    prompts = grouped(10, 3)
    assert put(Pool(servers), prompts) == {prompt: prompt.user for prompt in prompts}


def test_a_fault_of_the_prompt_or_the_model_is_asked_of_no_other():
    servers = [Scripted("a", lambda _: Failure("rejected")) for _ in range(1)]
    servers.append(Scripted("b", lambda _: Failure("rejected")))
    put(Pool(servers), [Prompt("x", group="g")])
    assert sum(len(server.asked) for server in servers) == 1


def test_a_failure_on_every_server_is_that_prompts_alone():
    def does(prompt):
        return Failure("timeout") if prompt.user == "1.1" else prompt.user

    said = put(Pool([Scripted("a", does), Scripted("b", does)]), grouped(3, 3))
    assert sorted(said.values()) == sorted(
        [*(p.user for p in grouped(3, 3) if p.user != "1.1"), "timeout"]
    )


def test_all_dead_is_an_error_that_says_why():
    dead = [Scripted(label, lambda _: JudgeError("no power")) for label in "ab"]
    with pytest.raises(JudgeError, match=r"none of 2 judges is left: no power"):
        put(Pool(dead), grouped(3, 3))


# --- what they have in common


def test_a_pool_can_be_held_to_what_all_can():
    a, b = Scripted("a"), Scripted("b")
    b.capabilities = Capabilities(choices=True, logprobs=True)
    b.notes = ("b has a note",)
    pool = Pool([a, b])
    run_sync(pool.check(), pool, "check")
    assert pool.capabilities == Capabilities(choices=True)
    assert pool.notes == ("b has a note",)
    assert pool.concurrency >= a.concurrency + b.concurrency


def test_servers_of_different_models_are_refused():
    a, b = Scripted("a"), Scripted("b")
    b.name = "two"
    pool = Pool([a, b])
    with pytest.raises(JudgeError, match=r"different models \(one, two\)"):
        run_sync(pool.check(), pool, "check")


def test_no_servers_and_the_same_twice_are_refused():
    with pytest.raises(InputError, match="no servers"):
        Pool([])
    with pytest.raises(InputError, match="named twice"):
        open_judge(["http://host:1/v1", "http://host:1"])


# --- over HTTP


@pytest.fixture
def servers():
    with ExitStack() as stack:
        yield [
            stack.enter_context(ChatServer(lambda request: Reply(request.question)))
            for _ in range(3)
        ]


def pool_of(servers, **options):
    options.setdefault("sleep", at_once)
    return open_judge([server.url for server in servers], concurrency=8, **options)


def test_real_servers_share_the_groups(servers):
    prompts = grouped(18, 12)
    assert put(pool_of(servers), prompts) == {prompt: prompt.user for prompt in prompts}
    groups = [{request.question.split(".")[0] for request in server.asked} for server in servers]
    assert all(groups)
    assert sum(map(len, groups)) == 18


@pytest.mark.parametrize(
    "fault", [Reply(reset=True), Reply(status=500), Reply(raw=b"<html>", content_type="text/html")]
)
def test_a_server_that_breaks_in_mid_run_loses_no_answer(servers, fault):
    first = servers[0]
    first.reply = lambda r: Reply(r.question) if r.number < 20 else fault
    pool = pool_of(servers, attempts=2)
    prompts = grouped(18, 12)
    assert put(pool, prompts) == {prompt: prompt.user for prompt in prompts}
    assert any(first.url in note for note in pool.notes)


def test_a_server_that_is_not_there_at_the_start_is_left_out_aloud(servers):
    gone = f"http://127.0.0.1:{dead_port()}/v1"
    pool = open_judge([gone, servers[0].url], sleep=at_once)
    prompts = grouped(3, 3)
    assert put(pool, prompts) == {prompt: prompt.user for prompt in prompts}
    assert any(gone in note and "left out" in note for note in pool.notes)


def test_none_there_at_the_start_is_an_error():
    urls = [f"http://127.0.0.1:{dead_port()}/v1" for _ in range(2)]
    with pytest.raises(JudgeError, match="no judge answers there"):
        run_sync((pool := open_judge(urls)).check(), pool, "check")


def test_a_replay_in_front_of_a_pool_pays_once(servers, tmp_path):
    prompts = grouped(6, 4)
    with Replay(tmp_path / "answers.db") as replay:
        first = put(pool_of(servers, replay=replay), prompts)
        asked = sum(len(server.asked) for server in servers)
        assert put(pool_of(servers, replay=replay), prompts) == first
        assert put(open_judge((), replay=replay), prompts) == first
    assert asked == sum(len(server.asked) for server in servers) == len(prompts)
