"""A small run for the tests of the atlas: an index, its tokenizer and its tables, made by rule.

The vocabulary is bytes, so every text has tokens. Latent 0 is dead, latent 1 is active on every
`e`, latent 2 on every `<`, the next ones on a letter each, and all on some tokens by chance.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from glossator.index import NO_DOCUMENT, NO_LATENT, Index, IndexWriter
from glossator.neighbours import NO_NEIGHBOUR, RELATIONS, Neighbours, neighbours
from glossator.records import TABLES, Explanation, Near, Rule, Score
from glossator.text import TokenText

HOOKPOINT = "model.layers.6"
S, K = 64, 3
PLANT = "</script><img src=x onerror=\"document.title='owned'\">"
LETTERS = np.array(list("<abcdefghijklmnopqrstuvwxyz"))
SPECIAL = ["café in Zürich ☕ 日本茶\n\tIndented.\n", f"Between the lines {PLANT} stands.", "", ""]


def token_text():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TokenText(tokenizer)


class World:
    """The arguments of `build_atlas`, and the postings they were made from."""

    def __init__(self, folder: Path, n_latents: int = 40, n_documents: int = 240, seed: int = 0):
        self.text, self.n_latents = token_text(), n_latents
        rng = np.random.default_rng(seed)
        ids, documents = [], []
        for document in range(n_documents):
            words = SPECIAL[document % len(SPECIAL)]
            for length in rng.integers(2, 9, rng.integers(10, 30)):
                words += " " + "".join(rng.choice(LETTERS, length))
            encoded = self.text.tokenizer.encode(words).ids
            ids += encoded
            documents += [document + 1] * len(encoded)
        short = -len(ids) % S
        self.tokens = np.array(ids + [0] * short, np.uint32).reshape(-1, S)
        self.documents = np.array(documents + [NO_DOCUMENT] * short, np.uint64).reshape(-1, S)
        self.mask = self.documents != NO_DOCUMENT
        self.mask[:, 0] = False  # a sink: in the text, and without postings
        self.letters = self._letters()
        self.dense = self._activations(rng)
        self._build(folder)

    @property
    def neighbours(self):
        """Of random rows, the nearest of every latent of a kind of its own; the last has none."""
        rows = np.random.default_rng(1).normal(size=(self.index.n_latents, 8)).astype(np.float32)
        ids, cosines = neighbours(rows, k=10)
        ids[-1], cosines[-1] = NO_NEIGHBOUR, np.nan
        relation = np.zeros(ids.shape, np.uint8)
        relation[:, 0] = np.arange(len(ids)) % len(RELATIONS)
        return Neighbours(ids, cosines, relation=relation)

    def _letters(self):
        encode = self.text.tokenizer.encode
        wanted = ["e", "<", *"abcdfghijklmnopqrstuvwxyz"]
        return np.array([encode(letter).ids[0] for letter in wanted], np.uint32)

    def _activations(self, rng):
        """Latents uint32[B, S, K] and their activations: each token's own, and one by chance."""
        latents = np.full((*self.tokens.shape, K), NO_LATENT, np.uint32)
        values = np.zeros(latents.shape, np.float32)
        for i, letter in enumerate(self.letters):
            if i + 1 < self.n_latents:
                latents[..., 0][self.tokens == letter] = i + 1
        values[..., 0] = np.where(
            latents[..., 0] != NO_LATENT, rng.gamma(2, 1, values.shape[:2]), 0
        )
        chance = rng.integers(1, self.n_latents, self.tokens.shape)
        hit = (rng.random(self.tokens.shape) < 0.1) & (chance != latents[..., 0])
        latents[..., 1] = np.where(hit, chance, NO_LATENT)
        values[..., 1] = np.where(hit, 0.25 * rng.random(self.tokens.shape) + 0.01, 0)
        return latents, values

    def _build(self, folder):
        with IndexWriter(
            folder, n_latents=self.n_latents, context_length=S, attributes={"hookpoint": HOOKPOINT}
        ) as writer:
            writer.add(self.tokens, *self.dense, self.documents, self.mask)
        self.index = Index.open(folder)

    def tables(self):
        """The tables `latents`, `explanations` and `scores`."""
        summary = self.index.summary()
        latents, explanations, scores = [], [], []
        for latent in range(self.n_latents):
            count = int(summary["count"][latent])
            status = "dead" if not count else "rare" if latent % 7 == 6 else "live"
            latents.append(
                {
                    "hookpoint": HOOKPOINT,
                    "latent": latent,
                    "count": count,
                    "windows": int(summary["windows"][latent]),
                    "windows_scoring": int(summary["windows_scoring"][latent]),
                    "documents": int(summary["documents"][latent]),
                    "density": count / self.index.n_tokens,
                    "status": status,
                    "reason": None if count else "active on no token",
                    "top_logits": json.dumps([[int(self.letters[0]), 2.5], ["␣named", 1.25]]),
                    "bottom_logits": json.dumps([[int(self.letters[1]), -2.0]]),
                }
            )
            if count:
                explanations.append(self._rule(latent))
                scores += self._corpus(explanations[-1], latent)
        if self.n_latents > 2:
            said = f"Angle brackets {PLANT}, as in mark-up"
            judged = Explanation.of(HOOKPOINT, 2, "judge <b>model</b>", said)
            explanations.append(judged)
            scores += self._judged(judged)
        return {
            "latents": pa.Table.from_pylist(latents, TABLES["latents"]),
            "explanations": pa.Table.from_pylist(
                [
                    one.model_dump(exclude={"rule"})
                    | {"rule": one.rule.model_dump_json() if one.rule else None}
                    for one in explanations
                ],
                TABLES["explanations"],
            ),
            "scores": pa.Table.from_pylist([one.model_dump() for one in scores], TABLES["scores"]),
        }

    def _rule(self, latent):
        token = int(self.letters[min(latent - 1, len(self.letters) - 1)])
        near = Near(tokens=(int(self.letters[0]),), before=6) if latent % 4 == 0 else None
        text = f"Activates on the token {self.text.name(token)}, kind {latent}"
        rule = Rule(tokens=(token,), require=near)
        return Explanation.of(HOOKPOINT, latent, "rules", text, rule)

    def _corpus(self, one, latent):
        f1 = 0.3 + 0.6 * (latent * 7 % 11) / 11
        known = {"explanation_id": one.explanation_id, "protocol_id": "check", "scorer": "corpus"}
        for metric, shift in (("f1", 0.0), ("precision", 0.05), ("recall", -0.05)):
            yield Score(
                **known, metric=metric, value=f1 + shift, low=f1 - 0.1, high=f1 + 0.1, n=120
            )
        for metric, value in (("tp", 40), ("fp", 1), ("fn", 9), ("tn", 12_345)):
            yield Score(**known, metric=metric, value=float(value))
        for decile in range(1, 11):
            value = decile / 11
            yield Score(
                **known, metric="recall", decile=decile, value=value, low=value / 2, high=1.0, n=12
            )

    def _judged(self, one):
        known = {"explanation_id": one.explanation_id, "protocol_id": "asked"}
        for scorer in ("detection", "fuzzing"):
            yield Score(
                **known,
                scorer=scorer,
                metric="balanced_accuracy",
                value=0.55,
                low=0.4,
                high=0.7,
                n=70,
                null_value=0.5,
            )
        yield Score(**known, scorer="detection", metric="auroc", reason="no logprobs were given")

    def arguments(self, **more):
        return {
            "index": self.index,
            "text": self.text,
            "hookpoint": HOOKPOINT,
            "run_info": {
                "subject": f"a subject {PLANT}",
                "coder": "a coder",
                "corpus": "a corpus",
                "notes": ["a judge of 135 M parameters is near chance"],
                "fraction of variance explained": 0.94,
            },
            "neighbours": self.neighbours,
            **self.tables(),
            **more,
        }
