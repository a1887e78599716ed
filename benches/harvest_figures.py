"""A harvest, beside the subject's forward pass and the encoder's matrix product alone.

    python -m benches.harvest_figures                        # SmolLM2 after its sixth layer
    python -m benches.harvest_figures --subject MINILM-FOLDER --hookpoint encoder.layer.2

What a harvest must do is run the subject and multiply; the rest is its own: selection, rescoring,
the index. One process, the parts one after the other in every round; the product is of the faster
type. Before anything is written the index is compared with the encoder's own answer.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benches.measure import ROOT, Figures

import glossator as gl
from glossator.encode.cpu import fastest_product
from glossator.harvest import harvest


def main():
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="smollm2")
    parser.add_argument("--hookpoint", default="model.layers.5")
    parser.add_argument("--tokens", type=int, default=12_000)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results/harvest.csv")
    given = parser.parse_args()
    figures = Figures(given.out)
    with tempfile.TemporaryDirectory() as scratch:
        measure(figures, given, Path(scratch))
    figures.write()


def measure(figures, given, scratch):
    """The rows of one subject."""
    subject = gl.load_subject(given.subject, given.hookpoint)
    packing = gl.pack(gl.open_corpus("stdlib"), subject.tokenizer, tokens=given.tokens)
    contexts = packing.store(scratch / "contexts")
    made = torch.Generator().manual_seed(0)
    weight = torch.randn((given.latents, subject.width), generator=made)
    weight /= weight.norm(dim=1, keepdim=True)
    states = [subject.hidden(batch.tokens, batch.attended) for batch in contexts.batches()]
    masks = [torch.from_numpy(batch.mask) for batch in contexts.batches()]
    live = torch.cat([state[mask] for state, mask in zip(states, masks, strict=True)])
    coder = gl.SparseCoder(
        encoder_weight=weight,
        encoder_bias=torch.zeros(given.latents),
        decoder=weight,
        decoder_bias=torch.zeros(subject.width),
        rule=gl.TopK(given.k),
        input_bias=live.mean(0),
    )
    kind = getattr(torch, fastest_product())
    half, turned = live.to(kind), weight.to(kind).T
    out = torch.empty((256, given.latents), dtype=kind)

    def forward():
        for batch in contexts.batches():
            subject.hidden(batch.tokens, batch.attended)

    def product():
        for rows in half.split(256):
            torch.mm(rows, turned, out=out[: len(rows)])

    number = iter(range(1_000))

    def whole():
        return harvest(subject, coder, contexts, scratch / f"index-{next(number)}")

    index = whole()
    counts = torch.bincount(coder.active(live).latents, minlength=given.latents)
    np.testing.assert_array_equal(index.counts(), counts.numpy())
    times = {forward: [], product: [], whole: []}
    for _ in range(given.rounds):
        for part, taken in times.items():
            begun = time.perf_counter()
            part()
            taken.append(time.perf_counter() - begun)
    name = Path(given.subject).parent.name if "/" in given.subject else given.subject
    shape = f"{name} {given.hookpoint} L={given.latents} k={given.k} tokens={len(live)}"
    least = [a + b for a, b in zip(times[forward], times[product], strict=True)]
    figures.add("harvest", "glossator", shape, "time", "s", times[whole])
    figures.add("harvest", "the subject alone", shape, "time", "s", times[forward])
    figures.add("harvest", f"the product alone, {kind}", shape, "time", "s", times[product])
    figures.add("harvest", "limit: the subject and the product", shape, "time", "s", least)


if __name__ == "__main__":
    main()
