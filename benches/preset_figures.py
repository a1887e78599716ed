"""How the presets rank the same latents with the same judge: a planted one, better on some latents.

    PYTHONPATH=tests python -m benches.preset_figures --latents 200

Each latent has its own recall and specificity, drawn from .5 to 1; the judge errs at those rates.
Printed is Spearman's correlation of balanced accuracies, with its 95 % interval, and each preset's
correlation with what was planted.
"""

import argparse
import tempfile

import numpy as np

import glossator as gl
from glossator.score.compare import correlation_figures
from planted import PlantedJudge, coin, planted_explanations, planted_index, truth_of


def judge_of(rates):
    def judged(description, line):
        truth, decile = truth_of(description, line)
        recall, specificity = rates[int(description.removeprefix("latent "))]
        return coin(recall if truth else 1 - specificity, description, line), truth, decile

    return PlantedJudge(judged)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=200)
    latents = parser.parse_args().latents
    rates = np.random.default_rng(0).uniform(0.5, 1.0, (latents, 2))
    found = {"planted": rates.mean(axis=1)}
    with tempfile.TemporaryDirectory() as folder:
        index, text = planted_index(f"{folder}/index", latents=latents)
        for preset in ("glossator", "post", "delphi"):
            scored = gl.score(
                index, planted_explanations(range(latents)), judge=judge_of(rates), text=text,
                preset=preset, scorers=("detection", "fuzzing"),
            )  # fmt: skip
            order = {one.explanation_id: one.latent for one in planted_explanations(range(latents))}
            values = np.full((latents, 2), np.nan)
            for row in scored.scores.to_pylist():
                if (row["metric"], row["kind"], row["decile"]) == ("balanced_accuracy", "all", 0):
                    place = ("detection", "fuzzing").index(row["scorer"])
                    values[order[row["explanation_id"]], place] = row["value"]
            found[preset] = values.mean(axis=1)
            print(f"{preset}: {np.isfinite(found[preset]).sum()} of {latents} latents scored")
    for a, b in (("glossator", "post"), ("glossator", "delphi"), *((p, "planted") for p in found)):
        if a == b:
            continue
        both = np.isfinite(found[a]) & np.isfinite(found[b])
        figure = correlation_figures(found[a][both], found[b][both])["spearman"]
        print(f"{a} and {b}: {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")


if __name__ == "__main__":
    main()
