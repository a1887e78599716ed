"""An index whose every activation is planted, with a text that says so, and judges who know it.

In the text of `planted_index` the word `hit17d3` is where latent 17 is active, in a window of its
decile 3; `by17` follows it at half the strength, `far17` at a tenth; all other words are filler.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

import numpy as np
from tokenizers import Tokenizer, models

from glossator.index import Index, IndexWriter
from glossator.judges.base import Answer, Capabilities, Usage
from glossator.records import Explanation
from glossator.text import TokenText
from judge_servers import Reply, Request, coin, examples_of

WINDOW = 32
HOOKPOINT = "model.layers.5"
FILLER = 2_000


def planted_index(
    path, *, latents=6, per_decile=30, silent=0, seed=0, first_context=0
) -> tuple[Index, TokenText]:
    """`per_decile` windows of each decile for each latent, eight latents a window.

    `silent` more latents are never active.
    """
    rng = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(FILLER)]
    for latent in range(latents):
        words += [f"hit{latent}d{d}" for d in range(1, 11)] + [f"by{latent}", f"far{latent}"]
    ids = {word: i for i, word in enumerate(words)}
    n = 10 * per_decile
    windows = -(-latents * n // 4)
    windows += windows % 2
    tokens = rng.integers(0, FILLER, size=(windows, WINDOW))
    rows, offsets, owners, values = [], [], [], []
    held = np.zeros(windows, int)
    for latent in range(latents):
        room = np.flatnonzero(held < 8)
        chosen = rng.choice(room, size=n, replace=False)
        for rank, window in enumerate(chosen.tolist()):
            at = 4 * held[window]
            held[window] += 1
            decile = 1 + 10 * rank // n
            strength = 1.05**rank
            for step, (word, share) in enumerate(
                [(f"hit{latent}d{decile}", 1.0), (f"by{latent}", 0.5), (f"far{latent}", 0.1)]
            ):
                tokens[window, at + step] = ids[word]
                rows.append(window)
                offsets.append(at + step)
                owners.append(latent)
                values.append(strength * share)
    rows, offsets = np.array(rows), np.array(offsets)
    with IndexWriter(
        path,
        n_latents=latents + silent,
        context_length=2 * WINDOW,
        first_context=first_context,
        attributes={"hookpoint": HOOKPOINT},
    ) as writer:
        # A window is a document of its own; two of them share a context.
        writer.add_coo(
            tokens.reshape(-1, 2 * WINDOW),
            rows // 2,
            offsets + WINDOW * (rows % 2),
            np.array(owners),
            np.array(values, np.float32),
            np.repeat(np.arange(windows), WINDOW).reshape(-1, 2 * WINDOW),
        )
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="word0"))
    return Index.open(path), TokenText(tokenizer)


def planted_explanations(latents) -> list[Explanation]:
    return [Explanation.of(HOOKPOINT, i, "planted", f"latent {i}") for i in latents]


def truth_of(description: str, line: str) -> tuple[bool, int]:
    """Whether the right answer is yes, and the decile of the passage (0: silent)."""
    latent = re.fullmatch(r"latent (\d+)", description)[1]
    hit = re.search(rf"\bhit{latent}d(\d+)\b", line)
    decile = int(hit[1]) if hit else 0
    if "<<" not in line:
        return hit is not None, decile
    marked = re.findall(r"<<(.*?)>>", line)
    return any(f"hit{latent}d" in run for run in marked), decile


def erring(
    recall: Mapping[int, float], specificity: float
) -> Callable[[str, str], tuple[bool, bool, int]]:
    """A judge that says yes to a share of what it should, by decile, and no to a share."""

    def judged(description: str, line: str) -> tuple[bool, bool, int]:
        truth, decile = truth_of(description, line)
        rate = recall[decile] if truth else 1.0 - specificity
        return coin(rate, description, line), truth, decile

    return judged


def description_of(request: Request) -> str:
    return _description(request.question)


def _description(question: str) -> str:
    return re.match(r"Description: (.*)\n", question)[1]


def answering(judged) -> Callable[[Request], Reply]:
    """A server's reply to scorers, from a judge of single lines."""

    def reply(request: Request) -> Reply:
        description = description_of(request)
        said = [judged(description, line)[0] for line in request.examples]
        return Reply(("no", "yes")[said[0]] if request.choices else json.dumps(said))

    return reply


def weighing(p_yes: Callable[[str, str], float]) -> Callable[[Request], Reply]:
    """A server's reply with the probabilities of yes and no, for one passage a prompt."""

    def reply(request: Request) -> Reply:
        (line,) = request.examples
        p = p_yes(description_of(request), line)
        # Some of the probability goes to other words, as in life.
        logprobs = {"yes": math.log(0.9 * p), "no": math.log(0.9 * (1 - p)), "maybe": math.log(0.1)}
        return Reply("yes" if p > 0.5 else "no", logprobs=logprobs)

    return reply


class PlantedJudge:
    """A judge in this process, who answers at once from a judge of single lines.

    `judged` gives (what it says, ...) of a description and a line, or a probability of yes.
    """

    name, concurrency, notes = "planted", 16, ()

    def __init__(self, judged, *, logprobs=True, choices=True) -> None:
        self.judged, self.asked = judged, []
        self.capabilities = Capabilities(choices=choices, schemas=True, logprobs=logprobs)

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def answer(self, prompts, *, choices=None, schema=None, max_tokens, logprobs=False):
        return [self._answer(prompt, choices, logprobs) for prompt in prompts]

    async def read(self, prompts, *, alternatives=0):
        raise NotImplementedError

    def _answer(self, prompt, choices, logprobs) -> Answer:
        self.asked.append(prompt)
        description = _description(prompt.user)
        said = [self.judged(description, line) for line in examples_of(prompt.user)]
        p_yes = [one if isinstance(one, float) else float(one[0]) for one in said]
        usage = Usage(prompt=100, cached=80, completion=1)
        if choices is None:
            return Answer(json.dumps([p > 0.5 for p in p_yes]), usage=usage)
        (p,) = p_yes
        known = {"yes": p, "no": 1 - p} if logprobs else None
        return Answer("yes" if p > 0.5 else "no", usage=usage, probabilities=known)
