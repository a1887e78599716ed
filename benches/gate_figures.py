"""What the gate says of right coders and of every convention read wrongly, on real hidden states.

    python -m benches.gate_figures               # SmolLM2-135M, half an hour or more on 2 cores
    python -m benches.gate_figures --parts norms mlps --data /tmp/gate-figures

Coders are trained on 30,000 tokens of the standard library's docstrings and measured on others:
top-k of 0 to 800 steps, and made of the one of 150 steps the field's other kinds (its threshold, a
ReLU and a transcoder with decoders fitted anew, a gate, activations that carry norms), beside ones
trained on normed or scaled states. Each is then misread in every way that its kind can be. The
first table is that of docs/gate.md; the last lines count what was refused and what was named.
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

import glossator as gl
from glossator.coders import SparseCoder, TrainConfig, trained_coder
from glossator.coders.normalize import normalized
from glossator.encode import Gated, Threshold, TopK
from glossator.gate import check_coder
from glossator.harvest import live_states

LAYER = "model.layers.5"
NORM = f"{LAYER}.post_attention_layernorm"
PLACES = (LAYER, f"{LAYER}:in", f"{NORM}:in", f"{NORM}:normalized", NORM, f"{LAYER}.mlp")
TRAINING, ALL = 30_000, 40_000
LATENTS, K = 2_048, 32
SPANS = 4
"""Parts of the text on each of which a right coder is measured."""


@dataclass(frozen=True)
class Case:
    """A coder as it is read, on some states, and the conventions that are wrong about it.

    Attributes:
        kind: the coder's, as it was made.
        what: how it is read.
        coder: as read.
        x: what it is given.
        target: what it is compared with.
        others: what could have been meant.
        wrong: the culprits that would be right; none for a right coder, `(None,)` for one that is
            refused without a name, since no reading of the same states is the right one.
    """

    kind: str
    what: str
    coder: SparseCoder
    x: torch.Tensor
    target: torch.Tensor | None = None
    others: dict = field(default_factory=dict)
    wrong: tuple = ()


class Material:
    """States of the subject, and coders trained on them: kept in a folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        path = self.folder / "states.pt"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(_states(self.folder), path)
        self.states = torch.load(path)

    def test(self, place):
        """What no coder was trained on."""
        return self.states[place][TRAINING:]

    def train(self, place, steps=150, latents=LATENTS, changed=None, name="as it is"):
        """A coder of one place, or of what `changed` makes of it."""
        states = self.states[place][:TRAINING]
        states = states if changed is None else changed(states)

        def data():
            rows = states[: TRAINING // 64 * 64].reshape(-1, 64, states.shape[1]).numpy()
            return rows, np.ones(rows.shape[:2], bool)

        config = TrainConfig(n_latents=latents, k=K, steps=steps, batch=512)
        made_from = {"states": f"{place} {name}"}
        coder = trained_coder(data, made_from, config, hookpoint=place, cache_dir=self.folder)
        return replace(coder, declared={"k": K, "l0": K})


def _states(folder):
    subject = gl.load_subject("smollm2", LAYER)
    contexts = gl.pack(gl.open_corpus("stdlib"), subject.tokenizer, tokens=60_000)
    contexts = contexts.store(folder / "contexts")
    return {k: v.float() for k, v in live_states(subject, contexts, PLACES, n=ALL).items()}


# --- kinds of coders ---------------------------------------------------------------------------


def _pre(coder, x):
    return torch.addmm(coder.encoder_bias, coder.encoder_input(x), coder.encoder_weight.T)


def _levels(coder, x):
    """For each latent the pre-activation above which it is active as often as among the top k."""
    rows = x[: TRAINING // 2]
    counts = torch.bincount(coder.active(rows).latents, minlength=coder.n_latents)
    ranked = _pre(coder, rows).sort(dim=0, descending=True).values
    return ranked.gather(0, counts[None].clamp(max=len(rows) - 1))[0].clamp(min=0)


def _fitted(coder, x, y):
    """The coder with the decoder that describes `y` best from its activations on `x`."""
    active = coder.active(x)
    acts = torch.zeros(len(x), coder.n_latents)
    acts[active.tokens(), active.latents] = active.activations
    mean = y.mean(0)
    ridge = 30 * torch.eye(coder.n_latents)
    decoder = torch.linalg.solve(acts.T @ acts + ridge, acts.T @ (y - mean))
    return replace(coder, decoder=decoder, decoder_bias=mean)


# --- cases -------------------------------------------------------------------------------------


def top_k(made):
    """Trained as they are, and the residual stream's neighbours."""
    x = made.test(LAYER)
    for steps in (0, 10, 40, 150):
        yield Case("top-k", f"as made, {steps} steps", made.train(LAYER, steps), x)
    coder = made.train(LAYER)
    yield from misread("top-k", coder, x)
    relu = replace(coder, rule=Threshold(torch.zeros(LATENTS)))
    yield Case("top-k", "ReLU for top-k, k declared", relu, x, wrong=("rule",))
    silent = replace(relu, declared={})
    yield Case("top-k", "ReLU for top-k, nothing declared", silent, x, wrong=("rule",))
    less = replace(coder, rule=TopK(8))
    yield Case("top-k", "k 8 for 32, declared", less, x, wrong=("rule",))
    yield Case(
        "top-k", "k 8 for 32, nothing declared", replace(less, declared={}), x, wrong=("rule",)
    )
    for place, what in ((NORM, "after the MLP's norm"), (f"{LAYER}:in", "the layer's input")):
        yield Case(
            "top-k",
            f"{what}, given the right one",
            coder,
            made.test(place),
            others={LAYER: x},
            wrong=("input",),
        )
    long = made.train(LAYER, 800, 4_096)
    others = {place: made.test(place) for place in PLACES if place != LAYER}
    yield Case("top-k", "as made, 800 steps, given five others", long, x, others=others)
    yield Case(
        "top-k",
        "800 steps, the layer's input, given the right one",
        long,
        made.test(f"{LAYER}:in"),
        others={LAYER: x},
        wrong=("input",),
    )
    square = made.train(LAYER, latents=576)
    yield Case("square", "as made", square, x)
    turned = {name: getattr(square, name).T.contiguous() for name in ("encoder_weight", "decoder")}
    for names in (["encoder_weight"], ["decoder"], ["encoder_weight", "decoder"]):
        side = "both" if len(names) > 1 else names[0].split("_")[0]
        read = replace(square, **{name: turned[name] for name in names})
        culprit = "both orientations" if len(names) > 1 else f"{side} orientation"
        yield Case("square", f"{side} transposed", read, x, wrong=(culprit,))


def thresholds(made):
    """The coder of 150 steps by a threshold, by ReLU and by a gate."""
    x, seen = made.test(LAYER), made.states[LAYER][:TRAINING]
    base = made.train(LAYER)
    levels = _levels(base, seen)
    zeros = torch.zeros(LATENTS)
    told = {"l0": K, "threshold": levels}
    jump = _fitted(replace(base, rule=Threshold(levels), declared=told), seen, seen)
    lower = replace(base, encoder_bias=base.encoder_bias - levels, declared={"l0": K})
    relu = _fitted(replace(lower, rule=Threshold(zeros)), seen, seen)
    spread = torch.rand(LATENTS, generator=torch.Generator().manual_seed(0)) + 0.5
    gated = _fitted(replace(lower, rule=Gated(spread, base.encoder_bias * spread)), seen, seen)
    for kind, coder in (("threshold", jump), ("ReLU", relu), ("gated", gated)):
        yield Case(kind, "as made", coder, x)
        bare = replace(coder, declared={})
        yield Case(kind, "as made, nothing declared", bare, x)
        yield from misread(kind, bare, x)
    open_ = replace(jump, rule=Threshold(zeros))
    yield Case("threshold", "ReLU for its threshold", open_, x, wrong=("rule",))
    bare = replace(open_, declared={})
    yield Case("threshold", "ReLU for it, nothing declared", bare, x, wrong=("rule",))
    few = replace(relu, rule=TopK(4))
    yield Case("ReLU", "top-4 for ReLU", few, x, wrong=("rule",))
    bare = replace(few, declared={})
    yield Case("ReLU", "top-4 for ReLU, nothing declared", bare, x, wrong=("rule",))


def norms(made):
    """Coders of states that were normed or scaled, and activations that carry decoder norms."""
    x = made.test(LAYER)
    for name in ("layer_norm", "unit_norm"):
        coder = made.train(LAYER, changed=lambda rows, n=name: normalized(rows, n)[0], name=name)
        coder = replace(coder, normalization=name)
        yield Case(name, "as made", coder, x)
        yield from misread(name, coder, x)
    scale = 576**0.5 / float(made.states[LAYER].norm(dim=1).mean())
    coder = made.train(LAYER, changed=lambda rows: rows * scale, name="scaled")
    coder = replace(coder, input_scale=scale, output_scale=1 / scale)
    yield Case("scaled", "as made", coder, x)
    yield from misread("scaled", coder, x)
    size = torch.rand(LATENTS, generator=torch.Generator().manual_seed(0)) * 3 + 0.3
    coder = made.train(LAYER)
    carried = replace(coder, decoder=coder.decoder * size[:, None], decoder_scale=1 / size)
    yield Case("norms carried", "as made", carried, x)
    yield Case(
        "norms carried",
        "norms not taken out",
        replace(carried, decoder_scale=None),
        x,
        wrong=("decoder norm",),
    )
    ranked = replace(
        carried,
        encoder_weight=coder.encoder_weight / size[:, None],
        encoder_bias=coder.encoder_bias / size,
        decoder_scale=None,
    )
    yield Case("norms carried", "ranked without them", ranked, x, wrong=("decoder norm",))


def mlps(made):
    """What an MLP reads and gives: before and after its norm and gain, and a transcoder."""
    normed, given, out = f"{NORM}:normalized", NORM, f"{LAYER}.mlp"
    sides = {name: made.test(name) for name in (f"{NORM}:in", normed, given)}
    for place in (given, normed):
        coder = made.train(place)
        rest = {name: rows for name, rows in sides.items() if name != place}
        yield Case(place, "as made", coder, sides[place], others=rest)
        for read in rest:
            right = {place: sides[place]}
            yield Case(place, f"read at {read}", coder, rest[read], others=right, wrong=("input",))
            alone = ("normalization",) if place == normed and read.endswith(":in") else (None,)
            yield Case(place, f"read at {read}, alone", coder, rest[read], wrong=alone)
    seen = {name: rows[:TRAINING] for name, rows in made.states.items()}
    coder = replace(_fitted(made.train(given), seen[given], seen[out]), hookpoint_out=out)
    target = made.test(out)
    rest = {name: sides[name] for name in (f"{NORM}:in", normed)}
    yield Case("transcoder", "as made", coder, sides[given], target, rest)
    yield from misread("transcoder", coder, sides[given], target=target)
    for read, rows in rest.items():
        right = {given: sides[given]}
        yield Case("transcoder", f"read at {read}", coder, rows, target, right, wrong=("input",))
    yield Case(
        "transcoder",
        "compared with the layer's output",
        coder,
        sides[given],
        made.test(LAYER),
        {out: target},
        wrong=("target",),
    )


PARTS = {"top_k": top_k, "thresholds": thresholds, "norms": norms, "mlps": mlps}


def misread(kind, coder, x, target=None):
    """A coder with one convention read wrongly."""

    def case(what, wrong, **changes):
        wrongs = wrong if isinstance(wrong, tuple) else (wrong,)
        return Case(kind, what, replace(coder, **changes), x, target, wrong=wrongs)

    if coder.input_bias is not None:
        yield case("input bias not taken off", "input bias", input_bias=None)
    for name in ("none", "layer_norm", "unit_norm"):
        if name != coder.normalization:
            yield case(f"`{name}` for `{coder.normalization}`", "normalization", normalization=name)
    fit = 576**0.5 / float(x.norm(dim=1).mean())
    if coder.normalization != "none":
        return
    factor = 1.0 if coder.input_scale != 1.0 else fit
    undone = {"output_scale": coder.output_scale}
    if target is None:
        undone = {"output_scale": 1.0 / factor}
    yield case("input scaled, undone", "input scale", input_scale=factor, **undone)
    yield case("input scaled, output not", "input scale", input_scale=factor)
    over = {"output_scale": factor} if target is None else undone
    yield case("input scaled the other way", "input scale", input_scale=1.0 / factor, **over)
    yield case("output scaled", "output scale", output_scale=coder.output_scale / fit)


# --- the tables --------------------------------------------------------------------------------


def _on_span(case, part):
    """The gate on one of several spans of the text."""
    size = len(case.x) // SPANS
    span = slice(part * size, (part + 1) * size)
    target = None if case.target is None else case.target[span]
    others = {name: rows[span] for name, rows in case.others.items()}
    return check_coder(case.coder, case.x[span], target, others=others)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="/tmp/glossator-gate-figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    made = Material(options.data)
    print("| coder | read | unexplained | with the best other | L0 | verdict | |")
    print("|---|---|---|---|---|---|---|")
    counts = {"right": [], "wrong": []}
    for part in options.parts:
        for case in PARTS[part](made):
            report = check_coder(case.coder, case.x, case.target, others=case.others)
            if not case.wrong:
                for number in range(SPANS):
                    verdict = _on_span(case, number).verdict
                    counts["right"].append((verdict != "misread", verdict))
            best = min(
                (t.figures.unexplained for t in report.trials if t.figures.unexplained is not None),
                default=float("nan"),
            )
            said = report.culprit or (
                "none named" if report.verdict == "misread" else report.verdict
            )
            fine = report.verdict != "misread" if not case.wrong else report.culprit in case.wrong
            if case.wrong == (None,):
                fine = (report.verdict, report.culprit) == ("misread", None)
            if case.wrong:
                counts["wrong"].append((fine, report.verdict))
            print(
                f"| {case.kind} | {case.what} | {report.ordinary.unexplained:.3g} | {best:.3g} "
                f"| {report.ordinary.l0:.3g} | {said} | {'' if fine else 'missed'} |",
                flush=True,
            )
    right, wrong = counts["right"], counts["wrong"]
    named = sum(fine for fine, _ in wrong)
    refused = sum(verdict == "misread" for _, verdict in wrong)
    refusals = sum(not fine for fine, _ in right)
    print(
        f"\nright coders on {SPANS} texts each: {len(right)}, {refusals} refused, "
        f"{sum(verdict == 'warns' for _, verdict in right)} warned of\n"
        f"misread: {len(wrong)}, {refused} refused, {named} of them as they should be, "
        f"{sum(verdict == 'passes' for _, verdict in wrong)} passed"
    )


if __name__ == "__main__":
    main()
