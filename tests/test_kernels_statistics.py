"""Statistics of activations: by kernel, in plain torch and by brute force."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from glossator import _core
from glossator._kernels import activation_statistics as kernel
from glossator._kernels import reference_statistics as twin
from glossator.errors import InputError
from glossator.statistics import ActivationStatistics


def _tables(n_latents):
    return (
        torch.zeros((n_latents, 256), dtype=torch.int32),
        torch.zeros(n_latents),
        torch.zeros(n_latents, dtype=torch.int64),
    )


def _batch(n, n_latents, seed=0, dtype=torch.float32):
    made = torch.Generator().manual_seed(seed)
    latents = torch.randint(-1, n_latents, (n,), generator=made, dtype=torch.int32)
    values = torch.exp(2 * torch.randn(n, generator=made)).to(dtype)
    values[torch.rand(n, generator=made) < 0.1] = 0
    return latents, values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 1_500])
def test_kernel_and_twin_and_the_core_fill_the_same_tables(n, dtype):
    latents, values = _batch(n, 7, dtype=dtype)
    # Halves of a unit go up, and what is too large for the sum counts as 2^42.
    values[: n // 3] = torch.tensor([2.5 * 2.0**-20, 3.5 * 2.0**-20, 2.0**15]).repeat(n)[: n // 3]
    if dtype == torch.float32:
        values[:1] = 2.0**43
    by_kernel, by_twin = _tables(7), _tables(7)
    kernel.activation_statistics(latents, values, *by_kernel)
    twin.activation_statistics(latents, values, *by_twin)
    assert all(torch.equal(a, b) for a, b in zip(by_kernel, by_twin, strict=True))
    of_core = _tables(7)
    ids = latents.numpy().view(np.uint32)
    unsigned = of_core[0].numpy().view(np.uint32)
    _core.add_statistics(ids, values.float().numpy(), unsigned, *(t.numpy() for t in of_core[1:]))
    assert all(torch.equal(a, b) for a, b in zip(of_core, by_twin, strict=True))


@pytest.mark.parametrize("fill", [kernel, twin])
def test_what_is_no_posting_is_not_counted(fill):
    latents = torch.tensor([-1, 0, 1, 2, 3, 1], dtype=torch.int32)
    values = torch.tensor([1.0, float("nan"), -2.0, 0.0, 5.0, 2.0**-30])
    tables = _tables(3)
    fill.activation_statistics(latents, values, *tables)
    assert tables[0].sum() == 1
    assert tables[0][1, 0] == 1
    assert tables[1].tolist() == [0, 2.0**-30, 0]


@pytest.mark.parametrize("fill", [kernel, twin])
def test_a_latent_active_on_every_token_is_counted_whole(fill):
    tables = _tables(2)
    values = torch.full((3_000,), 1.5)
    fill.activation_statistics(torch.ones(3_000, dtype=torch.int32), values, *tables)
    assert tables[0].sum().item() == tables[0][1, 8 * 16 + 8].item() == 3_000
    assert tables[2][1].item() == 3_000 * 3 << 19


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(2.0**-12, 2.0**12, width=32)), min_size=1),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(0, 100),
)
def test_quantiles_keep_their_stated_rank_error_and_parts_add_up(entries, shares, cut):
    latents = np.array([latent for latent, _ in entries], np.uint32)
    values = np.array([value for _, value in entries], np.float32)
    whole, left, right = (ActivationStatistics(5) for _ in range(3))
    whole.add(latents, values)
    left.add(latents[:cut], values[:cut])
    right.add(torch.from_numpy(latents[cut:].astype(np.int64)), torch.from_numpy(values[cut:]))
    left.merge(right)
    assert np.array_equal(whole.histogram(), left.histogram())
    assert np.array_equal(whole.maximum(), left.maximum())
    assert np.array_equal(whole.mean(), left.mean(), equal_nan=True)
    quantiles, errors = whole.activation_quantiles(shares), whole.rank_error(shares)
    for latent in range(5):
        own = values[latents == latent]
        assert whole.counts()[latent] == len(own)
        if not len(own):
            assert np.isnan(quantiles[latent]).all()
            continue
        assert whole.maximum()[latent] == own.max()
        assert whole.mean()[latent] == pytest.approx(own.mean(dtype=np.float64), abs=2.0**-20)
        for share, value, error in zip(shares, quantiles[latent], errors[latent], strict=True):
            assert (own < value).mean() - error <= share + 1e-9
            assert (own <= value).mean() + error >= share - 1e-9
            assert value <= own.max()


@pytest.mark.parametrize("spread", [0.4, 1.0])
def test_deciles_of_lognormal_activations_are_off_by_little(spread):
    shares = np.arange(1, 10) / 10
    errors = []
    for seed, n in enumerate([200] * 10 + [2_000] * 10 + [50_000]):
        made = np.random.default_rng(seed)
        values = np.exp(spread * made.standard_normal(n)).astype(np.float32)
        statistics = ActivationStatistics(1)
        statistics.add(np.zeros(n, np.uint32), values)
        deciles = statistics.activation_quantiles(shares)[0]
        errors += [
            abs((values <= value).mean() - share)
            for value, share in zip(deciles, shares, strict=True)
        ]
    assert 0 < np.mean(errors) < 0.003
    assert max(errors) < 0.03


def test_saved_statistics_are_read_back_and_grow_on(tmp_path):
    latents, values = _batch(500, 6)
    first = ActivationStatistics(6)
    first.add(latents, values)
    first.save(tmp_path / "statistics.npz")
    again = ActivationStatistics.load(tmp_path / "statistics.npz")
    for statistics in (first, again):
        statistics.add(latents, values)
    assert np.array_equal(first.histogram(), again.histogram())
    assert np.array_equal(first.density(1_000), again.density(1_000))


def test_full_tables_are_taken_in_before_they_overflow():
    statistics = ActivationStatistics(1)
    one = np.zeros(1, np.uint32), np.ones(1, np.float32)
    statistics.add(*one)
    tables = statistics._of(torch.device("cpu"))
    tables.histogram[0, 128] = -1  # 2^32 - 1 as unsigned
    tables.entries = 2**32 - 1
    statistics.add(*one)
    assert statistics.counts()[0] == 2**32


def test_a_sum_that_could_have_overflowed_is_no_mean():
    statistics = ActivationStatistics(2)
    statistics.add(np.array([0, 1]), np.array([2.0**43, 2.0**20], np.float32))
    assert np.isnan(statistics.mean()[0])
    assert statistics.mean()[1] == 2.0**20


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda _: ActivationStatistics(0), "at least 1"),
        (lambda s: s.add(np.zeros(2, np.int32), np.zeros(3)), "must agree"),
        (lambda s: s.add(np.array([4]), np.array([1.0])), "holds 4; there are 4 latents"),
        (lambda s: s.merge(ActivationStatistics(3)), "3 latents cannot"),
        (lambda s: s.density(0), "at least 1"),
        (lambda s: s.activation_quantiles([1.5]), "between 0 and 1"),
        (lambda _: ActivationStatistics.load("missing.npz"), "not found"),
        (lambda _: ActivationStatistics.load(__file__), "no statistics"),
    ],
)
def test_bad_input_is_one_clear_line(call, said):
    with pytest.raises(InputError, match=said):
        call(ActivationStatistics(4))


@pytest.mark.gpu
def test_the_gpu_fills_the_tables_of_the_twin():
    latents, values = _batch(1 << 20, 1_000)
    latents[: 1 << 19] = 3
    on_gpu, on_cpu = ActivationStatistics(1_000), ActivationStatistics(1_000)
    on_gpu.add(latents.cuda(), values.cuda())
    on_cpu.add(latents, values)
    assert np.array_equal(on_gpu.histogram(), on_cpu.histogram())
    assert np.array_equal(on_gpu.maximum(), on_cpu.maximum())
    assert np.array_equal(on_gpu.mean(), on_cpu.mean(), equal_nan=True)
