"""A harvest, beside the subject's forward pass and the encoder's matrix product alone.

    python -m benches.harvest_figures                        # SmolLM2 after its sixth layer
    python -m benches.harvest_figures --subject MINILM-FOLDER --hookpoint encoder.layer.2
    python -m benches.harvest_figures --latents 4096 --beside model.layers.4 model.layers.3

What a harvest must do is run the subject and multiply; the rest is its own: selection, rescoring,
the index. One process, the parts one after the other in every round; the product is of the faster
type. Before anything is written the index is compared with the encoder's own answer. `--beside`
harvests further hookpoints too: all in one pass, beside a pass for each.
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
    parser.add_argument("--beside", nargs="*", default=[], help="hookpoints in the same pass")
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results/harvest.csv")
    given = parser.parse_args()
    figures = Figures(given.out)
    with tempfile.TemporaryDirectory() as scratch:
        (measure_passes if given.beside else measure)(figures, given, Path(scratch))
    figures.write()


def measure(figures, given, scratch):
    """The rows of one subject."""
    subject = gl.load_subject(given.subject, given.hookpoint)
    contexts = packed(subject, given, scratch)
    states = [subject.hidden(batch.tokens, batch.attended) for batch in contexts.batches()]
    masks = [torch.from_numpy(batch.mask) for batch in contexts.batches()]
    live = torch.cat([state[mask] for state, mask in zip(states, masks, strict=True)])
    coder = random_coder(live, given)
    weight = coder.encoder_weight
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
    times = timed(given.rounds, forward, product, whole)
    shape = f"{name_of(given)} {given.hookpoint} L={given.latents} k={given.k} tokens={len(live)}"
    least = [a + b for a, b in zip(times[forward], times[product], strict=True)]
    figures.add("harvest", "glossator", shape, "time", "s", times[whole])
    figures.add("harvest", "the subject alone", shape, "time", "s", times[forward])
    figures.add("harvest", f"the product alone, {kind}", shape, "time", "s", times[product])
    figures.add("harvest", "limit: the subject and the product", shape, "time", "s", least)


def measure_passes(figures, given, scratch):
    """One pass for all hookpoints, beside a pass for each."""
    places = [given.hookpoint, *given.beside]
    subject = gl.load_subject(given.subject, places)
    contexts = packed(subject, given, scratch)
    few = next(iter(contexts.batches()))
    states = subject.states(few.tokens, few.attended)
    mask = torch.from_numpy(few.mask)
    coders = {at: random_coder(states[at][mask].float(), given) for at in subject.hookpoints}
    number = iter(range(1_000))

    def together():
        return gl.harvest_each(subject, coders, contexts, scratch / f"index-{next(number)}")

    def apart():
        return {
            at: harvest(subject.at(at), coder, contexts, scratch / f"index-{next(number)}")
            for at, coder in coders.items()
        }

    one, other = together(), apart()
    for at in coders:
        np.testing.assert_array_equal(one[at].counts(), other[at].counts())
    times = timed(given.rounds, together, apart)
    shape = f"{name_of(given)} {len(coders)} hookpoints L={given.latents} k={given.k}"
    shape += f" tokens={contexts.census().tokens}"
    figures.add("harvest of several", "glossator, one pass", shape, "time", "s", times[together])
    figures.add(
        "harvest of several", "glossator, a pass for each", shape, "time", "s", times[apart]
    )


def timed(rounds, *parts):
    """Seconds of each part, one after the other in every round."""
    times = {part: [] for part in parts}
    for _ in range(rounds):
        for part, taken in times.items():
            begun = time.perf_counter()
            part()
            taken.append(time.perf_counter() - begun)
    return times


def packed(subject, given, scratch):
    """The corpus, on disk."""
    packing = gl.pack(gl.open_corpus("stdlib"), subject.tokenizer, tokens=given.tokens)
    return packing.store(scratch / "contexts")


def random_coder(live, given):
    """Random directions, about the mean of some states."""
    made = torch.Generator().manual_seed(0)
    weight = torch.randn((given.latents, live.shape[1]), generator=made)
    weight /= weight.norm(dim=1, keepdim=True)
    return gl.SparseCoder(
        encoder_weight=weight,
        encoder_bias=torch.zeros(given.latents),
        decoder=weight,
        decoder_bias=torch.zeros(live.shape[1]),
        rule=gl.TopK(given.k),
        input_bias=live.mean(0),
    )


def name_of(given):
    """The subject's short name."""
    return Path(given.subject).parent.name if "/" in given.subject else given.subject


if __name__ == "__main__":
    main()
