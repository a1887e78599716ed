"""How often the 95 % interval of balanced accuracy holds what was planted, and a naive one's.

    python -m benches.coverage_figures                  # 20,000 draws a point: about five minutes
    python -m benches.coverage_figures --draws 2000

The judges' errors differ by decile and are correlated within documents and prompts
(`tests/planted_errors.py`); the grid is of recall, specificity, preset, and how strong the
correlation is. Before anything is written the intervals are compared with those of `scores_of`.
"""

import argparse
import sys

import numpy as np
from benches.measure import ROOT, Figures, log

sys.path.insert(0, str(ROOT / "tests"))

from planted_errors import DESIGNS, covered, intervals, naive_intervals, recalls
from test_score_coverage import test_the_intervals_of_many_samples_are_those_of_the_scores as check

RECALLS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SPECIFICITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
CORRELATIONS = {"none": (0.0, 0.0), "0.1 each": (0.1, 0.1), "prompt 0.2, document 0.1": (0.2, 0.1)}
BLOCK = 2_000


def coverage(rng, design, recall, specificity, draws, correlation):
    """Of our intervals and of the naive ones."""
    found = []
    for _ in range(0, draws, BLOCK):
        prompt, document = correlation
        sample = design.sample(
            rng, BLOCK, recalls(recall), specificity, prompt=prompt, document=document
        )
        found.append([covered(sample, make(sample)) for make in (intervals, naive_intervals)])
    return np.mean(found, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--out", default=str(ROOT / "benches/results/coverage.csv"))
    options = parser.parse_args()
    for name in DESIGNS:
        check(name)
    figures = Figures(options.out)
    for which, (kind, correlation) in enumerate(CORRELATIONS.items()):
        for name, design in DESIGNS.items():
            grid = {}
            for recall in RECALLS:
                for specificity in SPECIFICITIES:
                    rng = np.random.default_rng([20, which, int(100 * recall + 1e4 * specificity)])
                    grid[recall, specificity] = coverage(
                        rng, design, recall, specificity, options.draws, correlation
                    )
            ours, naive = np.array(list(grid.values())).T
            shape = f"preset={name} correlation={kind}"
            op = "95 % interval of balanced accuracy"
            for implementation, values in (("glossator", ours), ("Wald, independent", naive)):
                figures.add(op, implementation, shape, "mean coverage", "share", values.mean())
                figures.add(op, implementation, shape, "least coverage", "share", values.min())
            worst = min(grid, key=lambda point: grid[point][0])
            log(f"  {shape}: least at recall {worst[0]}, specificity {worst[1]}")
    figures.write()


if __name__ == "__main__":
    main()
