"""What is measured of SciPy, Parquet and DuckDB, each task in a process of its own.

All read the same arrays and write files; a reader gives one latent's positions and activations.
Parquet is tuned: latent-major, row groups of 65,536, positions DELTA_BINARY_PACKED, zstd-3, and the
same codes as the index's in a dictionary column.
"""

import os
import shutil
import time
from pathlib import Path

import numpy as np
from benches import by_hand
from benches.measure import files_of, memory, reset_peak, serve, timed
from benches.synthetic import S, W, open_data

GROUP = 65_536


def bf16(values):
    """Activations rounded to bf16, nearest even: uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def codes(values):
    """The index's codes: the octave and the top four bits of the mantissa, uint16."""
    return bf16(values) >> 3


def decoded(code):
    """The middle of a code, within 1/32 of every activation that has it: float32."""
    return ((np.asarray(code, np.uint32) << 19) | 0x3_8000).view(np.float32)


def _csc(data):
    """Latent-major columns: starts [L + 1], positions, activations."""
    from scipy import sparse

    shape = data.shape
    latents = np.array(data.latents).reshape(-1).view(np.int32)
    activations = np.array(data.activations).reshape(-1)
    starts = np.arange(0, shape.nnz + 1, shape.k, dtype=np.int32)
    os.sync()

    def run():
        dims = (shape.tokens, shape.latents)
        matrix = sparse.csr_matrix((activations, latents, starts), dims).tocsc()
        return matrix.indptr, matrix.indices, matrix.data

    return run


def _emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    return Path(folder)


def scipy_build(data, path):
    """CSR to CSC and three `.npy` files: seconds."""
    convert, folder = _csc(open_data(data)), _emptied(path)

    def run():
        for name, array in zip(("starts", "positions", "activations"), convert(), strict=True):
            np.save(folder / f"{name}.npy", array)

    reset_peak()
    before, (seconds, _) = memory(), timed(run)
    return {"seconds": seconds, "files": files_of(folder), "bytes": memory("VmHWM") - before}


def scipy_read(path):
    """One latent of the mapped matrix."""
    names = ("starts", "positions", "activations")
    starts, positions, values = (np.load(f"{path}/{name}.npy", mmap_mode="r") for name in names)

    def read(latent):
        column = slice(int(starts[latent]), int(starts[latent + 1]))
        return np.array(positions[column]), np.array(values[column])

    return read


def parquet_build(data, path, values="codes"):
    """Sorted by SciPy, the fastest here, and written by pyarrow: seconds."""
    convert, folder = _csc(open_data(data)), _emptied(path)
    seconds, _ = timed(lambda: write_parquet(folder, *convert(), values))
    return {"seconds": seconds, "files": files_of(folder)}


def write_parquet(folder, starts, positions, activations, values="codes"):
    """Latent-major columns as a tuned file; `values` is `codes` or `bf16` (16 bits, exact)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = {"codes": codes, "bf16": bf16}[values]
    columns = [("latent", pa.int32()), ("position", pa.int32()), ("value", pa.uint16())]
    schema = pa.schema(columns)
    options = {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": ["value"],
        "column_encoding": dict.fromkeys(("latent", "position"), "DELTA_BINARY_PACKED"),
    }
    with pq.ParquetWriter(folder / "postings.parquet", schema, **options) as out:
        for first in range(0, len(positions), 64 * GROUP):
            rows = slice(first, first + 64 * GROUP)
            inside = np.clip(starts, first, min(rows.stop, len(positions)))
            latent = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(inside))
            table = pa.table([latent, positions[rows], kind(activations[rows])], schema)
            out.write_table(table, row_group_size=GROUP)


def parquet_read(path):
    """One latent, from the row groups whose statistics allow it."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(f"{path}/postings.parquet", memory_map=True)
    groups = [file.metadata.row_group(g).column(0) for g in range(file.metadata.num_row_groups)]
    least = np.array([group.statistics.min for group in groups])
    most = np.array([group.statistics.max for group in groups])

    def read(latent):
        chosen = np.nonzero((least <= latent) & (most >= latent))[0].tolist()
        if not chosen:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        table = file.read_row_groups(chosen)
        lo, hi = np.searchsorted(table["latent"].to_numpy(), [latent, latent + 1])
        table = table.slice(lo, hi - lo)
        return table["position"].to_numpy(), decoded(table["value"].to_numpy())

    return read


def duckdb_build(data, path):
    """`CREATE TABLE … AS SELECT … ORDER BY latent, position` from Arrow columns: seconds."""
    import duckdb
    import pyarrow as pa

    data, folder = open_data(data), _emptied(path)
    latents = np.array(data.latents).reshape(-1)
    columns = {
        "position": np.repeat(np.arange(data.shape.tokens, dtype=np.int32), data.shape.k),
        "latent": latents.view(np.int32),
        "activation": np.array(data.activations).reshape(-1),
    }
    os.sync()
    limits = {"threads": os.cpu_count(), "memory_limit": "12GB", "temp_directory": f"{path}/tmp"}
    base = duckdb.connect(f"{folder}/postings.duckdb", config=limits)
    base.register("given", pa.table(columns))

    def run():
        base.execute(
            "CREATE TABLE postings AS SELECT latent, position, activation FROM given "
            "ORDER BY latent, position"
        )
        base.close()

    return {"seconds": timed(run)[0], "files": files_of(folder)}


def duckdb_read(path):
    """One latent by a query."""
    import duckdb

    base = duckdb.connect(f"{path}/postings.duckdb", read_only=True)
    query = "SELECT position, activation FROM postings WHERE latent = ? ORDER BY position"

    def read(latent):
        columns = base.execute(query, [latent]).fetchnumpy()
        return np.asarray(columns["position"]), np.asarray(columns["activation"])

    return read


READERS = {"scipy": scipy_read, "parquet": parquet_read, "duckdb": duckdb_read}


def sample(reader, path, data, latents, calls=1, explain=40, decile=5, negatives=50):
    """Windows drawn with NumPy from what a reader gives, `calls` times each latent: seconds."""
    from glossator.index import document_sides

    data = open_data(data)
    sides = np.repeat(document_sides(data.documents), S // W)
    tokens, read = np.array(data.tokens), READERS[reader](path)
    rng = np.random.default_rng(0)
    read(latents[0])
    times, rows = [], 0
    for latent in latents:
        for _ in range(calls):
            begun = time.perf_counter()
            shown, _ = by_hand.sample(
                *read(latent), tokens, sides, rng, window=W,
                explain=explain, decile=decile, negatives=negatives,
            )  # fmt: skip
            times.append(time.perf_counter() - begun)
            rows += len(shown)
    return {"seconds": times, "rows": rows}


def scipy_postings(path):
    """Every latent's mapped columns, copied: seconds, the second time."""
    read = scipy_read(path)
    for _ in range(2):
        begun, latents = time.perf_counter(), len(np.load(f"{path}/starts.npy", mmap_mode="r")) - 1
        amount = sum(len(read(latent)[0]) for latent in range(latents))
    return {"seconds": time.perf_counter() - begun, "amount": amount}


def scipy_cooccurrence(path, latents, block=64):
    """Top-10 Jaccard of some latents by sparse products with the whole matrix: seconds a latent."""
    from scipy import sparse

    names = ("activations", "positions", "starts")
    columns = [np.load(f"{path}/{name}.npy") for name in names]
    columns[0] = np.ones(len(columns[0]), np.float32)
    matrix = sparse.csc_matrix(tuple(columns))
    counts = np.diff(columns[2])
    by_token = matrix.tocsr()
    begun = time.perf_counter()
    for first in range(0, len(latents), block):
        chosen = latents[first : first + block]
        both = (matrix[:, chosen].T.tocsr() @ by_token).toarray()
        jaccard = both / np.maximum(counts[chosen, None] + counts - both, 1)
        jaccard[np.arange(len(chosen)), chosen] = 0
        best = np.argpartition(-jaccard, 10, axis=1)[:, :10]
        np.sort(-np.take_along_axis(jaccard, best, 1), axis=1)
    return {"seconds": (time.perf_counter() - begun) / len(latents)}


def copy(amount, bytes_each, threads=1):
    """A memory copy of so many entries, into memory that was touched before: seconds."""
    from concurrent.futures import ThreadPoolExecutor

    source = np.ones(amount * bytes_each, np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds, _ = timed(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return {"seconds": seconds}


def entropy(data):
    """Bits that a posting needs on average: its position, its code, and its bf16."""
    data = open_data(data)
    histogram = np.zeros(65_536, np.int64)
    for first in range(0, data.shape.contexts, 256):
        values = bf16(data.activations[first : first + 256].reshape(-1))
        histogram += np.bincount(values, minlength=65_536)
    return {
        "positions": position_bits(data.counts, data.shape.tokens),
        "codes": entropy_bits(histogram.reshape(-1, 8).sum(axis=1)),
        "bf16": entropy_bits(histogram),
    }


def position_bits(counts, tokens):
    """Bits a posting to say which tokens each latent is active on, all choices being alike."""
    from scipy.special import gammaln

    n = counts[counts > 0].astype(np.float64)
    ways = gammaln(tokens + 1) - gammaln(n + 1) - gammaln(tokens - n + 1)
    return float(ways.sum() / np.log(2) / n.sum())


def entropy_bits(histogram):
    """Bits a draw from a histogram."""
    share = histogram[histogram > 0] / histogram.sum()
    return float(-(share * np.log2(share)).sum())


TASKS = (
    *(scipy_build, parquet_build, duckdb_build, sample),
    *(scipy_postings, scipy_cooccurrence, copy, entropy),
)

if __name__ == "__main__":
    serve({task.__name__: task for task in TASKS})
