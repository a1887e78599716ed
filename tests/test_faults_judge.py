"""A judge not there, refusing, stalling, dying, lying: what it said is kept, the rest is asked."""

from __future__ import annotations

import json
import re

import pytest

from glossator.judges.openai_server import OpenAIJudge
from glossator.runs import Run
from judge_servers import ChatServer, Reply, coin, dead_port
from tiny_runs import command, is_explaining, knowing

LATENTS = 1
PROMPTS = LATENTS * 2 * (14 + 14)  # Two explanations a latent; detection, then fuzzing.
HONEST = knowing(0.9, 0.8)
SECRET = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    """Attempts are fewer and follow at once."""
    monkeypatch.setitem(OpenAIJudge.__init__.__kwdefaults__, "backoff", 0.001)
    monkeypatch.setitem(OpenAIJudge.__init__.__kwdefaults__, "attempts", 3)


@pytest.fixture(scope="module")
def healthy(world, tmp_path_factory):
    """What a run amounts to whose judge did its work."""
    folder = tmp_path_factory.mktemp("healthy")
    with ChatServer(HONEST) as server:
        settings = settings_for(world, folder, server.url)
        done = command("run", settings, "--out", folder / "run")
        assert done.code == 0, done.err
        assert len(server.asked) == LATENTS + PROMPTS
    return words_of(folder / "run")


def settings_for(world, folder, url, **judge):
    return world.settings(
        folder / "run.toml",
        judge={"url": url, "max_latents": LATENTS, "timeout": 0.5, **judge},
        explain={"explainers": ["rules", "delimited"]},
        score={"preset": "post", "null": 0},
    )


def words_of(out):
    names = ("explanations", "examples", "protocols", "verdicts", "scores")
    with Run.open(out) as run:
        return {name: run.table(name) for name in names}


def assert_completes(world, folder, server, healthy):
    """The same command ends well now, with the same words, and then asks nothing more."""
    arguments = ("run", folder / "run.toml", "--out", folder / "run")
    done = command(*arguments)
    assert done.code == 0, done.err
    assert words_of(folder / "run") == healthy
    before = len(server.requests)
    assert command(*arguments).code == 0
    assert len(server.requests) == before


def first_then(n, then):
    """Honest for `n` questions, something else afterwards."""
    return lambda request: HONEST(request) if request.number <= n else then(request)


def test_nobody_there(world, tmp_path, healthy):
    port = dead_port()
    settings = settings_for(world, tmp_path, f"http://127.0.0.1:{port}/v1")
    done = command("run", settings, "--out", tmp_path / "run")
    assert done.code == 2
    assert f"http://127.0.0.1:{port}/v1: no judge answers there" in done.error
    assert "start the server or correct --judge" in done.error
    assert done.stages_before == []
    with ChatServer(HONEST, port=port) as server:
        assert_completes(world, tmp_path, server, healthy)


@pytest.mark.parametrize("given", [None, "sk-wrong-4711"])
def test_a_refused_key(given, world, tmp_path, healthy, monkeypatch):
    if given:
        monkeypatch.setenv("GLOSSATOR_JUDGE_API_KEY", given)
    with ChatServer(HONEST, key=SECRET) as server:
        settings = settings_for(world, tmp_path, server.url)
        done = command("run", settings, "--out", tmp_path / "run")
        assert done.code == 2
        assert "the server refused the key (401); set GLOSSATOR_JUDGE_API_KEY" in done.error
        assert "sk-wrong" not in done.err
        monkeypatch.setenv("GLOSSATOR_JUDGE_API_KEY", SECRET)
        assert_completes(world, tmp_path, server, healthy)


def test_an_unknown_model_and_several_models(world, tmp_path):
    with ChatServer(HONEST, models=("one", "two")) as server:
        done = command("demo", *world.options, "--out", tmp_path / "run", "--judge", server.url)
        assert done.code == 2
        assert "serves one, two; choose one with --judge-model" in done.error
        done = command(
            *("demo", *world.options, "--out", tmp_path / "run"),
            *("--judge", server.url, "--judge-model", "three"),
        )
        assert done.code == 2
        assert "no model `three` (404); it serves one, two" in done.error


def test_a_url_that_is_none(world, tmp_path):
    for url in ("here", "ftp://host/v1", "http://", "http://host:port/v1"):
        done = command("demo", *world.options, "--out", tmp_path / "run", "--judge", url)
        assert done.code == 2
        assert "not a URL" in done.error or "`judge.url`" in done.error
        assert done.err.count("\n") == 1


def test_too_many_requests_for_ever(world, tmp_path, healthy):
    with ChatServer(lambda _: Reply(status=429)) as server:
        # Time enough for an answer: a busy machine must not add a fault of another kind.
        settings = settings_for(world, tmp_path, server.url, timeout=20.0)
        done = command("run", settings, "--out", tmp_path / "run")
        assert done.code == 3
        assert "100.0% of the explanations or verdicts are missing" in done.error
        assert "run the same command again to ask for them" in done.error
        failures = set(words_of(tmp_path / "run")["verdicts"]["failure"].to_pylist())
        assert {failure.partition(":")[0] for failure in failures} == {"rate_limited"}
        assert (tmp_path / "run" / "atlas.html").is_file()
        server.reply = HONEST
        assert_completes(world, tmp_path, server, healthy)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Reply(status=500), "status 500"),
        (Reply(status=503), "status 503"),
        (Reply(reset=True), "requests in a row failed"),
        (Reply(stall=True), "no answer in time"),
    ],
)
def test_a_server_that_breaks_down_ends_the_run_and_keeps_what_it_said(
    fault, said, world, tmp_path, healthy
):
    n = 40
    with ChatServer(first_then(n, lambda _: fault)) as server:
        settings = settings_for(world, tmp_path, server.url, concurrency=4, timeout=0.3)
        done = command("run", settings, "--out", tmp_path / "run")
        assert done.code == 2
        assert said in done.error
        assert "what was answered is kept" in done.error
        kept = words_of(tmp_path / "run")
        assert kept["explanations"].num_rows == 12 + LATENTS
        answers = kept["verdicts"].filter(kept["verdicts"]["answer"].is_valid())
        prompts = set(answers["prompt_id"].to_pylist())
        assert len(prompts) > n - LATENTS - 8
        server.reply = HONEST
        before = len(server.asked)
        assert_completes(world, tmp_path, server, healthy)
        # Each once, unless an answer came too late.
        asked = {request.question for request in server.asked[before:]}
        assert len(asked) == PROMPTS - len(prompts)


def test_a_server_that_dies_and_is_started_again(world, tmp_path, healthy):
    with ChatServer(HONEST) as server:

        def dying(request):
            if request.number == 30:
                server.http.socket.close()
            return HONEST(request) if request.number < 30 else Reply(reset=True)

        server.reply = dying
        settings = settings_for(world, tmp_path, server.url)
        done = command("run", settings, "--out", tmp_path / "run")
        assert done.code == 2
        assert "start the server again and run the same command" in done.error
        server.http.socket.close()
    with ChatServer(HONEST, port=server.port) as again:
        assert_completes(world, tmp_path, again, healthy)


@pytest.mark.parametrize(
    "nonsense",
    [
        Reply("banana"),
        Reply("[true, false]"),
        Reply("[1, 0, 1, 1, 0]"),
        Reply(""),
        Reply("[true,", finish="length"),
        Reply("no", finish="content_filter"),
        Reply(raw=b"<html>busy</html>", content_type="text/html"),
        Reply(raw=b'{"choices": [', content_type="application/json"),
        Reply(raw=b"", promised=100),
        Reply("[true, true, true, true, true]", id="chatcmpl-of-another"),
    ],
)
def test_nonsense_is_missing_and_never_a_score(nonsense, world, tmp_path, healthy):
    def reply(request):
        return HONEST(request) if is_explaining(request) else nonsense

    with ChatServer(reply) as server:
        settings = settings_for(world, tmp_path, server.url)
        done = command("run", settings, "--out", tmp_path / "run")
        if done.code == 2:  # A fault of the way to the model, eight times in a row.
            assert "requests in a row failed" in done.error
        else:
            assert done.code == 3, done.err
            assert "100.0% of the explanations or verdicts are missing" in done.error
        words = words_of(tmp_path / "run")
        assert words["verdicts"]["answer"].null_count == words["verdicts"].num_rows
        judged = [row for row in words["scores"].to_pylist() if row["scorer"] != "corpus"]
        assert all(row["value"] is None for row in judged)
        server.reply = HONEST
        assert_completes(world, tmp_path, server, healthy)


def test_a_server_that_is_no_judge_at_all(world, tmp_path):
    class Page(ChatServer):
        def respond(self, handler, body, request):
            self.write(handler, 200, b"<html>Welcome</html>", "text/html", {})

    with Page(HONEST) as server:
        done = command("demo", *world.options, "--out", tmp_path / "run", "--judge", server.url)
        assert done.code == 2
        assert f"{server.url}: the judge cannot be used" in done.error


@pytest.mark.parametrize(("allowed", "code"), [("0.01", 3), ("0.5", 0)])
def test_the_exit_code_says_whether_too_much_is_missing(allowed, code, world, tmp_path, healthy):
    def reply(request):
        if is_explaining(request) or not coin(0.1, request.question):
            return HONEST(request)
        return Reply("banana")

    with ChatServer(reply) as server:
        settings = settings_for(world, tmp_path, server.url)
        arguments = ("run", settings, "--out", tmp_path / "run", "--max-failed", allowed)
        done = command(*arguments)
        assert done.code == code, done.err
        verdicts = words_of(tmp_path / "run")["verdicts"]
        share = verdicts["answer"].null_count / verdicts.num_rows
        assert 0.01 < share < 0.5
        if code == 3:
            assert f"{share:.1%} of the explanations or verdicts are missing" in done.error
        else:
            assert done.stages[-1] == "atlas"
        before = len(server.asked)
        assert command(*arguments).code == code
        asked = len(server.asked) - before
        failed = {row["prompt_id"] for row in verdicts.to_pylist() if row["failure"]}
        # Each is asked twice before it counts as failed.
        assert asked == (2 * len(failed) if code == 3 else 0)
        server.reply = HONEST
        if code == 3:
            assert_completes(world, tmp_path, server, healthy)


def test_a_missing_explanation_is_asked_for_again_and_then_scored(world, tmp_path, healthy):
    def reply(request):
        return Reply(status=429) if is_explaining(request) else HONEST(request)

    with ChatServer(reply) as server:
        settings = settings_for(world, tmp_path, server.url)
        done = command("run", settings, "--out", tmp_path / "run")
        assert done.code == 3
        assert words_of(tmp_path / "run")["explanations"].num_rows == 12
        server.reply = HONEST
        assert_completes(world, tmp_path, server, healthy)


def test_the_key_stands_nowhere(world, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOSSATOR_JUDGE_API_KEY", SECRET)
    monkeypatch.setenv("GLOSSATOR_CACHE", str(tmp_path / "cache"))

    def reply(request):
        # A server that repeats what it was sent, in answers and in refusals.
        echo = request.headers["authorization"]
        if is_explaining(request):
            return Reply(f"Explanation: {echo} hit1")
        if coin(0.2, request.question):
            return Reply(status=400, error=f"bad request with {echo}")
        return HONEST(request)

    said = []
    with ChatServer(reply, key=SECRET) as server:
        settings = settings_for(world, tmp_path, server.url)
        arguments = ("run", settings, "--out", tmp_path / "run", "--max-failed", "1")
        done = command(*arguments)
        assert done.code == 0, done.err
        said += [done.out, done.err]
        monkeypatch.setenv("GLOSSATOR_JUDGE_API_KEY", "sk-wrong-9876543210")
        done = command(*arguments, "--max-latents", "3")
        assert done.code == 2
        said += [done.out, done.err]
    done = command("inspect", tmp_path / "run")
    said += [done.out, done.err]
    command("export", "tables", tmp_path / "run", tmp_path / "tables")
    texts = [text.encode() for text in said]
    texts += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for key in (SECRET, "sk-wrong-9876543210"):
        assert not [text for text in texts if key.encode() in text]
    rows = words_of(tmp_path / "run")
    everything = json.dumps([table.to_pylist() for table in rows.values()])
    assert "[key]" in everything
    assert not re.search("sk-(secret|wrong)", everything)
