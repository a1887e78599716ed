"""What `compiled.py` compiles: each kernel with the types and constants of its launcher."""

from compiled import Specimen
from glossator._kernels.activation_statistics import statistics_kernel
from glossator._kernels.group_maxima import Grouping, group_maxima_kernel, tiles
from glossator._kernels.operands import prepare_rows_kernel
from glossator._kernels.product import BEFORE_TMA, LARGE, SMALL
from glossator._kernels.rescore import rescore_pairs_kernel
from glossator._kernels.sign_bits import bits_kernel
from glossator._kernels.sort_by_latent import place_kernel
from glossator._kernels.threshold_encode import (
    count_kernel,
    decide_kernel,
    expand_kernel,
    pack_kernel,
)
from glossator._kernels.topk_encode import merge_kernel


def of_product(name, kernel, shape, d, types, architectures, **constants):
    """A kernel that walks tiles of a product, for one shape of them."""
    operand = "*bf16"
    types = {
        "x": f"tensordesc<bf16[{shape.rows},{shape.width}]>" if shape.descriptors else operand,
        "w": f"tensordesc<bf16[{shape.latents},{shape.width}]>" if shape.descriptors else operand,
        **types,
    }
    return Specimen(
        name=f"{name} {shape.rows}x{shape.latents} d={d}",
        kernel=kernel,
        types=types,
        constants=shape.constants(d) | constants,
        options=shape.options(),
        architectures=architectures,
        tile=shape.rows * shape.latents // (32 * shape.warps),
        odd=("N", "n"),
    )


_MAXIMA = {
    "bias_ptr": "*fp32",
    "kept_ptr": "*i32",
    "N": "i32",
    "L": "i32",
    "stride": "i32",
}
_MERGE = {
    "kept_ptr": "*i32",
    "x_ptr": "*bf16",
    "w_ptr": "*bf16",
    "bias_ptr": "*fp32",
    "latents_ptr": "*i32",
    "margin_ptr": "*fp32",
    "bad_ptr": "*i32",
    "out_latents_ptr": "*i32",
    "out_activations_ptr": "*fp32",
    "bounds_ptr": "*fp32",
    "failed_ptr": "*i32",
    "n_failed_ptr": "*i32",
    "first": "i32",
    "stride": "i32",
}
_PREPARE = {
    "x_ptr": "*fp32",
    "input_bias_ptr": "*fp32",
    "product_ptr": "*bf16",
    "exact_ptr": "*fp32",
    "margin_ptr": "*fp32",
    "bad_ptr": "*i32",
    "stride_row": "i32",
    "stride_column": "i32",
    "width": "i32",
    "norm": "fp32",
    "lost": "fp32",
    "largest_bias": "fp32",
}
_BITS = {
    "add_ptr": "*fp32",
    "offset_ptr": "*fp32",
    "words_ptr": "*i32",
    "n_ptr": "*i32",
    "P": "i32",
}
_DECIDE = {
    "bias_ptr": "*fp32",
    "latents_ptr": "*i32",
    "thresholds_ptr": "*fp32",
    "scale_ptr": "*fp32",
    "shift_ptr": "*fp32",
    "starts_ptr": "*i64",
    "candidates_ptr": "*i32",
    "found_ptr": "*i32",
    "values_ptr": "*fp32",
    "counts_ptr": "*i64",
    "bad_ptr": "*i32",
    "capacity": "i32",
}


def _maxima(shape, group, kept, architectures, d=768):
    name = f"group_maxima {kept} of {group}"
    shape = tiles(shape, Grouping(group, kept))
    return of_product(name, group_maxima_kernel, shape, d, _MAXIMA, architectures, G=group, M=kept)


def _merge(dtype, d, k, n_latents, group, kept):
    n_kept = n_latents // group * kept
    candidates = max(2 * k, 64)
    constants = {"D": d, "K": k, "KEPT": n_kept, "G": group, "M": kept}
    constants |= {"CANDIDATES": 1 << (candidates - 1).bit_length()}
    constants |= {"BLOCK": 1 << (n_kept - 1).bit_length(), "BLOCK_K": 1 << (k - 1).bit_length()}
    constants |= {"BLOCK_GROUPS": n_latents // group, "OF_MAXIMA": n_latents // group >= 4 * k}
    warps = min(max(constants["BLOCK"] // 1024, constants["CANDIDATES"] // 64, 1), 8)
    return Specimen(
        name=f"merge {dtype} {d}/{n_latents}/{k}",
        kernel=merge_kernel,
        types=_MERGE | {"x_ptr": f"*{dtype}", "w_ptr": f"*{dtype}"},
        constants=constants,
        options={"num_warps": warps},
    )


def _decide(dtype, d, gated):
    return Specimen(
        name=f"decide {'gated ' if gated else ''}{dtype} d={d}",
        kernel=decide_kernel,
        types={"x_ptr": f"*{dtype}", "w_ptr": f"*{dtype}", **_DECIDE},
        constants={"D": d, "C": 16, "BY_TOKEN": False, "GATED": gated},
        options={"num_warps": 1},
        odd=("capacity",),
    )


SPECIMENS = (
    Specimen(
        name="prepare_rows",
        kernel=prepare_rows_kernel,
        types=_PREPARE,
        constants={
            "D": 768,
            "BLOCK": 1024,
            "BIASED": True,
            "SAME": False,
            "SUM_ERROR": 2.0**-14,
            "LARGEST": 2.0**56,
        },
        options={"num_warps": 4},
        odd=("stride_column", "width"),
    ),
    _maxima(LARGE, 128, 4, (90,)),
    _maxima(SMALL, 128, 4, (90, 100)),
    _maxima(LARGE, 256, 6, (90,), d=4096),
    _maxima(SMALL, 128, 6, (90, 100), d=4096),
    _maxima(LARGE, 256, 4, (90,)),
    _maxima(BEFORE_TMA, 128, 4, (80,)),
    _merge("bf16", 768, 32, 32_768, 128, 4),
    _merge("fp32", 768, 32, 32_768, 128, 4),
    _merge("bf16", 4_096, 192, 131_072, 256, 6),
    of_product("bits", bits_kernel, LARGE, 768, _BITS, (90,)),
    of_product("bits", bits_kernel, SMALL, 768, _BITS, (90, 100)),
    of_product("bits", bits_kernel, BEFORE_TMA, 768, _BITS, (80,)),
    Specimen(
        name="count",
        kernel=count_kernel,
        types={"words_ptr": "*i32", "counts_ptr": "*i64", "n_ptr": "*i32"},
        constants={"W": 1_024, "BLOCK": 256},
    ),
    Specimen(
        name="expand",
        kernel=expand_kernel,
        types={
            "words_ptr": "*i32",
            "starts_ptr": "*i64",
            "candidates_ptr": "*i32",
            "capacity": "i32",
        },
        constants={"W": 1_024, "BLOCK": 256},
        odd=("capacity",),
    ),
    _decide("bf16", 768, gated=False),
    _decide("fp32", 768, gated=True),
    Specimen(
        name="pack",
        kernel=pack_kernel,
        types={
            "found_ptr": "*i32",
            "values_ptr": "*fp32",
            "from_ptr": "*i64",
            "to_ptr": "*i64",
            "latents_ptr": "*i32",
            "activations_ptr": "*fp32",
        },
        constants={"BLOCK": 128},
        options={"num_warps": 1},
    ),
    Specimen(
        name="rescore_pairs fp32 d=768",
        kernel=rescore_pairs_kernel,
        types={
            "x_ptr": "*fp32",
            "w_ptr": "*fp32",
            "rows_ptr": "*i64",
            "latents_ptr": "*i64",
            "out_ptr": "*fp32",
            "n": "i32",
        },
        constants={"D": 768, "C": 32},
        options={"num_warps": 1},
        odd=("n",),
    ),
    Specimen(
        name="statistics",
        kernel=statistics_kernel,
        types={
            "latents_ptr": "*i32",
            "activations_ptr": "*fp32",
            "n": "i32",
            "n_latents": "i32",
            "histogram_ptr": "*i32",
            "maximum_ptr": "*i32",
            "total_ptr": "*i64",
        },
        constants={"BLOCK": 1_024},
        odd=("n", "n_latents"),
    ),
    Specimen(
        name="place",
        kernel=place_kernel,
        types={
            "order_ptr": "*i64",
            "activations_ptr": "*fp32",
            "rows_ptr": "*i64",
            "positions_ptr": "*i32",
            "out_ptr": "*fp32",
            "n": "i32",
            "k": "i32",
        },
        constants={"CSR": False, "BLOCK": 1_024},
        odd=("n", "k"),
    ),
)
