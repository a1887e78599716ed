"""What is judged in the judges' figures: latents of single tokens in real text.

    world = make("/tmp/glossator-judges", latents=8)
    world.index, world.text, world.explanations
    asked = record(world, ("detection", "fuzzing"))       # the jobs that scoring puts, in order

A latent is active on most places of one token in the standard library's docstrings, and half as
much on the token after it. Nobody here judges well or badly: only what is sent and what it costs
counts.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import glossator as gl
from glossator.corpus import open_corpus, pack
from glossator.index import Index, IndexWriter
from glossator.judges.base import Answer, Capabilities, Prompt, Reading, Usage
from glossator.records import Explanation
from glossator.subjects import smollm2_path
from glossator.text import TokenText

HOOKPOINT = "model.layers.5"
CONTEXT, TOKENS = 128, 300_000
SCORERS = ("detection", "fuzzing")
# A token this often makes windows enough for every decile, and leaves silent ones.
OFTEN = (400, 2_000)
MOST = 0.7


@dataclass(frozen=True, eq=False)
class World:
    """What the scorers are given."""

    index: Index
    text: TokenText
    explanations: tuple[Explanation, ...]


def make(folder, latents):
    """The world, made in a few seconds where it is not there."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2_path() / "tokenizer.json"))
    text = TokenText(tokenizer)
    path = Path(folder) / f"index-{latents}-{MOST}"
    chosen_path = path.with_name(f"{path.name}.npy")
    if not chosen_path.is_file():
        tokens, documents, mask = _packed(tokenizer)
        counts = np.bincount(tokens.ravel())
        often = np.flatnonzero((counts > OFTEN[0]) & (counts < OFTEN[1]))
        words = [t for t in often if text.pieces(np.array([t]))[0].strip().isalpha()]
        chosen = np.random.default_rng(0).permutation(words)[:latents]
        _write(path, tokens, documents, mask, chosen)
        chosen_path.parent.mkdir(parents=True, exist_ok=True)
        np.save(chosen_path, chosen)
    explanations = tuple(
        Explanation.of(
            HOOKPOINT,
            latent,
            "bench",
            f"the word {text.pieces(np.array([token]))[0].strip()!r} in documentation of programs, "
            "above all where it is said what a function takes and returns",
        )
        for latent, token in enumerate(np.load(chosen_path))
    )
    return World(Index.open(path), text, explanations)


def _packed(tokenizer):
    """[contexts, CONTEXT] tokens, documents and mask."""
    batches = list(
        pack(open_corpus("stdlib"), tokenizer, context_length=CONTEXT, tokens=TOKENS).batches()
    )
    names = ("tokens", "document_ids", "mask")
    return tuple(np.concatenate([getattr(batch, name) for batch in batches]) for name in names)


def _write(path, tokens, documents, mask, chosen):
    rng = np.random.default_rng(1)
    rows, offsets, owners, values = [], [], [], []
    for latent, token in enumerate(chosen):
        row, offset = np.nonzero(tokens == token)
        # Elsewhere its token stands without it: such windows are negatives.
        most = rng.random(len(row)) < MOST
        row, offset = row[most], offset[most]
        strength = rng.lognormal(0.0, 0.5, len(row))
        inside = offset + 1 < CONTEXT
        # One token's own posting comes first where the word stands twice in a row.
        for shift, share, kept in ((0, 1.0, slice(None)), (1, 0.5, inside)):
            rows.append(row[kept])
            offsets.append(offset[kept] + shift)
            owners.append(np.full(len(row[kept]), latent))
            values.append(share * strength[kept])
    found = [np.concatenate(part) for part in (rows, offsets, owners, values)]
    found = [part[mask[found[0], found[1]]] for part in found]
    _, first = np.unique(np.stack(found[:3]), axis=1, return_index=True)
    rows, offsets, owners, values = (part[first] for part in found)
    with IndexWriter(
        path,
        n_latents=len(chosen),
        context_length=CONTEXT,
        attributes={"hookpoint": HOOKPOINT},
    ) as writer:
        writer.add_coo(tokens, rows, offsets, owners, values.astype(np.float32), documents, mask)


class Null:
    """A judge that answers at once, and keeps what it was asked."""

    name, concurrency, notes = "null", 256, ()
    capabilities = Capabilities(True, True, True, True, True)

    def __init__(self):
        self.asked = []

    async def check(self):
        pass

    async def answer(self, prompts, *, choices=None, schema=None, max_tokens, logprobs=False):
        self.asked += [(prompt, choices) for prompt in prompts]
        if choices is None:
            return [Answer("[]", usage=Usage(100, 90, 1))] * len(prompts)
        likely = dict.fromkeys(choices, 1 / len(choices))
        return [Answer(choices[0], None, Usage(100, 90, 1), 0.0, likely)] * len(prompts)

    async def read(self, prompts, *, alternatives=0):
        return [Reading(("x",), (0.0,))] * len(prompts)

    async def close(self):
        pass


def score(world, judge, scorers=SCORERS, plan=None):
    """The pipeline: everything that scoring does."""
    return gl.score(
        world.index,
        world.explanations,
        judge=judge,
        text=world.text,
        scorers=scorers,
        plan=plan,
    )


def record(world, scorers=SCORERS):
    """What scoring asks: [prompt, choices], in order."""
    null = Null()
    score(world, null, scorers)
    return null.asked


def shared_prefixes(asked, tokens):
    """For each prompt, how many of its first tokens all prompts of its latent and scorer share.

    Args:
        asked: as `record` gives it.
        tokens: a prompt's token ids.
    """
    families = {}
    ids = [tokens(prompt) for prompt, _ in asked]
    for (prompt, _), row in zip(asked, ids, strict=True):
        families.setdefault((prompt.group, prompt.label, prompt.system, prompt.shots), []).append(
            row
        )
    lengths = {}
    for key, family in families.items():
        first, last = min(family), max(family)
        same = [a == b for a, b in zip(first, last, strict=False)]
        lengths[key] = same.index(False) if False in same else len(same)
    return ids, [
        lengths[prompt.group, prompt.label, prompt.system, prompt.shots] for prompt, _ in asked
    ]


__all__ = ["SCORERS", "Null", "Prompt", "World", "make", "record", "score", "shared_prefixes"]
