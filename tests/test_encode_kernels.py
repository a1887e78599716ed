"""One face: the kernels and the Rust core give the same active latents, bit for bit."""

import importlib.util
import sys

import pytest
import torch

from glossator.encode import Encoder, Gated, Threshold, TopK
from glossator.errors import InputError


def _problem(n=3, width=37, n_latents=150):
    made = torch.Generator().manual_seed(4)
    x = torch.randn(n, width, generator=made)
    weight = torch.randn(n_latents, width, generator=made)
    bias = torch.randn(n_latents, generator=made)
    # Latents that are equal, on a row where they are active: ties go to the smaller one.
    weight[60:64], bias[60:64] = x[0], 1.0
    scale = torch.rand(n_latents, generator=made) + 0.5
    return x, weight, bias, scale


RULES = {
    "topk": lambda bias, scale: TopK(7),
    "threshold": lambda bias, scale: Threshold(scale * 6),
    "gated": lambda bias, scale: Gated(scale, bias),
}


@pytest.fixture
def kernels(monkeypatch):
    """Chooses kernels; refuses an argument that a kernel does not have, as a GPU would."""
    from triton.runtime import interpreter

    options = {"num_warps", "num_stages"}
    seen = []
    run = interpreter.GridExecutor.__call__

    def strict(self, *args, **given):
        taken = {"warmup", *options, *self.arg_names}
        assert set(given) <= taken, (self.fn.__name__, set(given) - taken)
        seen.append(self.fn.__name__)
        return run(self, *args, **given)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", strict)

    def choose(name):
        monkeypatch.setenv("GLOSSATOR_KERNELS", name)
        return seen

    return choose


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        *(("topk", dtype) for dtype in ("float32", "bfloat16", "float16")),
        *((rule, dtype) for rule in ("threshold", "gated") for dtype in ("float32", "bfloat16")),
    ],
)
def test_kernels_and_the_cpu_give_the_same_bits(kernels, rule, dtype):
    x, weight, bias, scale = _problem()
    made = RULES[rule](bias, scale)
    by_cpu = Encoder(weight, bias, made, dtype=dtype).encode(x)
    seen = kernels("triton")
    assert not seen
    by_kernels = Encoder(weight, bias, made, dtype=dtype).encode(x)
    assert "merge_kernel" in seen or "decide_kernel" in seen
    assert len(by_cpu.latents) > len(x)
    for part in ("starts", "latents", "activations"):
        assert torch.equal(getattr(by_kernels, part), getattr(by_cpu, part)), part


def test_kernels_that_are_not_installed_are_not_passed_over(kernels, monkeypatch):
    _, weight, bias, _ = _problem()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        sys.modules["glossator.encode"],
        "find_spec",
        lambda name: None if name == "triton" else find(name),
    )
    kernels("triton")
    with pytest.raises(InputError, match="triton`, which is not installed"):
        Encoder(weight, bias, TopK(2))


def test_kernels_of_another_name_are_refused(kernels):
    _, weight, bias, _ = _problem()
    kernels("cuda")
    with pytest.raises(InputError, match="GLOSSATOR_KERNELS is `cuda`: not one of auto"):
        Encoder(weight, bias, TopK(2))
