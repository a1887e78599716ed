"""What `compiled.py` compiles: each kernel with the types and constants of its launcher."""

from compiled import Specimen
from glossator._kernels.operands import prepare_rows_kernel
from glossator._kernels.product import BEFORE_TMA, LARGE, SMALL
from glossator._kernels.topk_encode import group_maxima_kernel, merge_kernel


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


def _maxima(shape, group, kept, architectures, d=768):
    name = f"group_maxima {kept} of {group}"
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
)
