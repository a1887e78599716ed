"""A model, a coder and a corpus in which every latent is of a type that is known.

The model's one layer gives, of each token, the sum of three vectors that are at right angles to all
others: one of the token, one of its offset, one of the token before. A latent's encoder adds up
some of them, so that it is active on a token, at an offset, behind a token, or on both together.

    world = make_types_world(folder)
    command("harvest", *world.options, "--out", "run")
    TYPES["pair"]                            # what the latent `AT["pair"]` is
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.utils import logging

from glossator.coders import SparseCoder, sparsify
from glossator.encode import TopK

HOOKPOINT = "transformer.h.0"
WORDS, LENGTH, DOCUMENTS = 150, 128, 600
WIDTH = 2 * WORDS + LENGTH + 4
BEFORE, AFTER, COMMON, RARE, SAID = 11, 12, 30, 149, 5
TYPES = {
    "one token": "unigram",
    "ten tokens": "unigram",
    "one offset": "positional",
    "pair": "bigram",
    "behind one token": "next-token",
    "original": "other",
    "copy": "duplicate",
    "speaker": "say",
    "dense": "dense",
    "rare": "rare",
    "dead": "dead",
    "plain": "other",
    "plainer": "other",
    "same direction elsewhere": "other",
}
AT = {name: latent for latent, name in enumerate(TYPES)}


@dataclass(frozen=True)
class TypesWorld:
    """What a run is made of, on disk."""

    folder: Path

    @property
    def subject(self) -> Path:
        return self.folder / "gpt2"

    @property
    def coder(self) -> Path:
        return self.folder / "coder" / HOOKPOINT

    @property
    def options(self) -> list[str]:
        """Of `glossator harvest`."""
        return [
            *("--subject", str(self.subject), "--dtype", "float32", "--hookpoint", HOOKPOINT),
            *("--corpus", str(self.folder / "corpus.jsonl")),
            # What it reconstructs is nothing: it is made to be read, not to explain variance.
            *("--coder", str(self.coder), "--no-gate"),
        ]


def make_types_world(folder: Path) -> TypesWorld:
    """Write subject, coder and corpus into a folder."""
    world = TypesWorld(folder)
    # At right angles to all ones too: a layer norm then is a factor, the same for every token.
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.cat([torch.ones(WIDTH, 1), torch.randn(WIDTH, WIDTH - 1)], 1))[0]
    rows = basis.T[1:]
    own, before, offset = rows[:WORDS], rows[WORDS : 2 * WORDS], rows[2 * WORDS :][:LENGTH]
    model = _save_subject(world.subject, own, before, offset)
    _save_coder(world.coder, own, before, offset, model.lm_head.weight.detach())
    draw = random.Random(0)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(DOCUMENTS):
            file.write(json.dumps({"text": " ".join(_document(draw, number))}) + "\n")
    return world


def _document(draw: random.Random, number: int) -> list[str]:
    words = [draw.randrange(WORDS - 1) for _ in range(draw.randrange(40, 90))]
    for at in range(1, len(words)):
        if draw.random() < 0.03:
            words[at] = AFTER
        if draw.random() < 0.02:
            words[at - 1 : at + 1] = [BEFORE, AFTER]
    if number < 8:
        words[3] = RARE
    return [f"w{word}" for word in words]


def _save_subject(
    folder: Path, own: torch.Tensor, before: torch.Tensor, offset: torch.Tensor
) -> torch.nn.Module:
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=1,
        n_head=1,
        n_inner=8,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config)
    block = model.transformer.h[0]
    # The norm of a token's vector and its offset's together is √2, and becomes √WIDTH.
    factor = (WIDTH / 2) ** 0.5
    with torch.no_grad():
        model.transformer.wte.weight.copy_(own)
        model.transformer.wpe.weight.copy_(offset)
        query, key = offset.T @ offset, offset[:-1].T @ offset[1:]
        value = own.T @ before / factor
        block.attn.c_attn.weight.copy_(torch.cat([2 * query, 2 * key, value], dim=1))
        block.attn.c_proj.weight.copy_(torch.eye(WIDTH))
        for part in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_proj):
            part.bias.zero_()
        block.mlp.c_proj.weight.zero_()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return model


def _save_coder(
    folder: Path,
    own: torch.Tensor,
    before: torch.Tensor,
    offset: torch.Tensor,
    unembedding: torch.Tensor,
) -> None:
    draw = torch.Generator().manual_seed(1)

    def some(rows: torch.Tensor, n: int = COMMON) -> torch.Tensor:
        return rows[torch.randperm(WORDS - 1, generator=draw)[:n]].sum(0)

    def both() -> torch.Tensor:
        """Active where one of many tokens follows one of many."""
        return some(own) + some(before)

    twin = both()
    encoder = {
        "one token": own[7],
        "ten tokens": own[20:30].sum(0),
        "one offset": offset[50],
        "pair": own[AFTER] + before[BEFORE],
        "behind one token": before[13],
        "original": twin,
        "copy": twin - 0.3 * own[twin.matmul(own.T).argmax()],
        "speaker": both(),
        "dense": some(own),
        "rare": own[RARE],
        "dead": own[0],
        "plain": both(),
        "plainer": both(),
        "same direction elsewhere": both(),
    }
    two = {"pair", "original", "copy", "speaker", "plain", "plainer", "same direction elsewhere"}
    bias = [-100.0 if name == "dead" else -1.5 if name in two else -0.5 for name in TYPES]
    decoder = torch.randn(len(TYPES), WIDTH, generator=draw)
    decoder[AT["copy"]] = decoder[AT["original"]] + 0.1 * decoder[AT["copy"]]
    decoder[AT["same direction elsewhere"]] = decoder[AT["plain"]]
    decoder[AT["speaker"]] = unembedding[SAID]
    coder = SparseCoder(
        encoder_weight=torch.stack([encoder[name] for name in TYPES]),
        encoder_bias=torch.tensor(bias),
        decoder=torch.nn.functional.normalize(decoder, dim=1),
        decoder_bias=torch.zeros(WIDTH),
        rule=TopK(len(TYPES)),
        hookpoint=HOOKPOINT,
        hookpoint_out=HOOKPOINT,
    )
    folder.mkdir(parents=True)
    sparsify.fill(coder, folder)
