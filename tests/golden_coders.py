"""The coders under `golden/coders`, and what it takes to be read as their libraries read them."""

from pathlib import Path

import numpy as np

from glossator.coders import load_coder

GOLDEN = Path(__file__).parent / "golden" / "coders"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
# Of a folder with several coders, the one whose numbers stand beside it.
MEANT = {"circuit_tracer_clt": "W_enc_1"}


def expected(folder):
    """Inputs, dense activations and reconstruction, as the coder's own library gave them."""
    with np.load(folder / "expected.npz") as held:
        return held["x"], held["activations"], held["y"]


def check(folder, x, activations, y):
    """That the coder in `folder` gives these activations and this reconstruction for `x`."""
    coder = load_coder(folder, MEANT.get(folder.name))
    latents, values = coder.encode(x)
    found = np.zeros_like(activations)
    for row in range(len(x)):
        kept = values[row] > 0
        found[row, latents[row][kept]] = values[row][kept]
    np.testing.assert_allclose(found, activations, atol=2e-5, rtol=2e-5)
    assert ((found > 0) == (activations > 0)).all()
    assert (activations > 0).any(axis=1).all(), "a token on which nothing is active proves nothing"
    assert (activations == 0).any(axis=1).all()
    np.testing.assert_allclose(coder.decode(latents, values, x), y, atol=5e-5, rtol=5e-5)
