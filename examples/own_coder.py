"""A sparse coder of one's own making, from its weights to explained latents.

    python examples/own_coder.py

The coder is the simplest that says anything: its directions are hidden states of the corpus
itself, drawn at random. It is written in the layout that `--coder FOLDER` reads, loaded again,
and explained on a few thousand tokens. A trained coder takes its place without another change.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

import glossator as gl
from glossator.coders import sparsify
from glossator.hidden import collect_hidden
from glossator.score.corpus import mean_f1, score_rules

N_LATENTS, K = 128, 8


def coder_of(x: torch.Tensor, hookpoint: str) -> gl.SparseCoder:
    """A top-K autoencoder whose decoder rows are some of the rows of x[N, d], less their mean."""
    mean = x.mean(0)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:N_LATENTS]
    directions = torch.nn.functional.normalize(x[chosen] - mean, dim=1)
    return gl.SparseCoder(
        encoder_weight=directions,  # [L, d]; it sees x less the decoder's bias
        encoder_bias=torch.zeros(N_LATENTS),
        decoder=directions / K**0.5,  # K directions that point alike say the same thing K times
        decoder_bias=mean,
        rule=gl.TopK(K),
        input_bias=mean,
        hookpoint=hookpoint,
    )


def main(folder: Path) -> None:
    """Hidden states, coder, index, rules."""
    subject = gl.load_subject("smollm2", "layers.3")
    packing = gl.pack(gl.open_corpus("stdlib"), subject.tokenizer, tokens=12_000)
    contexts = packing.store(folder / "contexts")
    hidden = collect_hidden(subject, contexts, folder / "hidden.f32")
    mask = np.concatenate([batch.mask for batch in contexts.batches()])
    x = torch.from_numpy(hidden[mask])

    sparsify.write(coder_of(x, subject.hookpoint), folder / "coders")
    coder = gl.load_coder(folder / "coders", hookpoint=subject.hookpoint)
    quality = coder.quality(x)
    print(coder.describe()["rule"], f"at {coder.hookpoint}:", quality)

    index = gl.harvest(subject, coder, contexts, folder / "index", hidden=hidden)
    kinds = gl.triage(index, min_windows=20, min_documents=20)
    live = np.flatnonzero(kinds["status"] == "live")
    explained = gl.explain(index, live, text=gl.TokenText(subject.tokenizer))
    scores = score_rules(index, explained.explanations)
    for explanation in explained.explanations[:3]:
        print(f"{explanation.latent}: {explanation.text}")
    print(f"{len(live)} of {N_LATENTS} latents explained, {mean_f1(scores)}")

    assert index.nnz <= K * index.n_tokens
    assert len(explained.explanations) == len(live)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
