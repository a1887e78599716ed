"""An index of one's own activations: NumPy arrays in, examples, rules and scores out; no torch.

    python examples/own_activations.py

The activations stand in for those of any model. Three latents of a made-up coder are planted in
made-up text: one fires on a word, one on a word after another one, one by chance. The rules that
are learned from half of the documents are checked on the other half.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import glossator as gl
from glossator.explain.rules import learn_rules, rule_positions
from glossator.score.corpus import score_rules

N_DOCUMENTS, CONTEXT_LENGTH, N_LATENTS = 600, 64, 3
WORDS = ["the", "ship", "sail", "old", "red", "waits", *(f"word{i}" for i in range(194))]
SHIP, OLD, SAIL = WORDS.index("ship"), WORDS.index("old"), WORDS.index("sail")


class Names:
    """What a rule's text calls each token; of a real tokenizer, `gl.TokenText` says it."""

    def name(self, token: int) -> str:
        """A printable name."""
        return WORDS[token]


def text_of(draw: np.random.Generator) -> np.ndarray:
    """Words at random, int64[B, S], and in every second document `old sail` somewhere."""
    tokens = draw.integers(0, len(WORDS), (N_DOCUMENTS, CONTEXT_LENGTH))
    chosen = np.arange(0, N_DOCUMENTS, 2)
    places = draw.integers(0, CONTEXT_LENGTH - 1, len(chosen))
    tokens[chosen, places], tokens[chosen, places + 1] = OLD, SAIL
    return tokens


def activations_of(tokens: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """What a model's coder would give: float32[B, S, L], 0 where a latent is silent."""
    after_old = np.zeros(tokens.shape, bool)
    after_old[:, 1:] = tokens[:, :-1] == OLD
    by_chance = draw.random(tokens.shape) < 0.01
    fires = np.stack([tokens == SHIP, (tokens == SAIL) & after_old, by_chance], axis=-1)
    return np.where(fires, draw.gamma(4.0, 0.5, fires.shape), 0.0).astype(np.float32)


def main(folder: Path) -> None:
    """Build, ask, explain, score."""
    draw = np.random.default_rng(0)
    tokens = text_of(draw)
    values = activations_of(tokens, draw)
    documents = np.arange(N_DOCUMENTS)
    path = folder / "index"

    # Every latent of every token: ids [B, S, K] and activations [B, S, K], in any order, a batch
    # at a time. An activation of 0 is no posting, so a dense row is as good as a sparse one.
    ids = np.broadcast_to(np.arange(N_LATENTS), (*tokens.shape, N_LATENTS))
    with gl.IndexWriter(path, n_latents=N_LATENTS, context_length=CONTEXT_LENGTH) as writer:
        for first in range(0, N_DOCUMENTS, 100):
            rows = slice(first, first + 100)
            writer.add(tokens[rows], ids[rows], values[rows], documents[rows])

    index = gl.Index.open(path)
    print(f"{index.nnz:,} activations on {index.n_tokens:,} tokens: {index.counts().tolist()}")

    examples = index.sample([0, 1, 2], gl.SamplingPlan(), seed=0)
    strongest = examples.take(examples.decile == 10)
    print(f"{len(examples):,} examples, {len(strongest):,} of them in the strongest decile")

    explanations = learn_rules(index, [0, 1, 2], names=Names())
    scores = score_rules(index, explanations)
    f1 = {row["explanation_id"]: row for row in scores.to_pylist() if row["metric"] == "f1"}
    for explanation in explanations:
        row = f1[explanation.explanation_id]
        print(f"{explanation.latent}: {explanation.text}")
        print(f"   F1 per window {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})")

    rule = explanations[1].rule
    assert rule is not None
    mine = np.array([WORDS.index(word) for word in ("the", "old", "sail", "waits", "red", "sail")])
    fires = rule_positions(rule, mine)
    print("the second rule fires on:", [WORDS[token] for token in mine[fires]])

    # What was planted is found, and where there is nothing to find the score says so.
    found = [f1[explanation.explanation_id] for explanation in explanations]
    assert found[0]["low"] > 0.95
    assert found[1]["low"] > 0.95
    assert found[2]["high"] < 0.6
    assert rule.tokens == (SAIL,)
    assert fires.tolist() == [False, False, True, False, False, False]
    assert "torch" not in sys.modules


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
