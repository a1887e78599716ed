"""What is measured of glossator, each task in a process of its own: see `benches.measure.child`.

A task takes the folder of `benches.synthetic` data and the index's path, and returns plain numbers.
"""

import os
import shutil
import threading
import time
from dataclasses import dataclass
from functools import partial
from inspect import signature

import numpy as np
from benches.measure import files_of, memory, reset_peak, serve, timed
from benches.synthetic import COMMON, RARE, RUN, S, W, open_data

import glossator as gl

STRATIFIED = gl.SamplingPlan(per_decile=4, explain=gl.ExplainPlan(n=0), negatives=())
"""40 windows, four of each tenth of the ranks."""
BATCH = RUN // S
"""Contexts in a batch."""
_OPTIONS = signature(gl.IndexWriter.__init__).parameters
READ_FORMAT = "lossless" in _OPTIONS
"""Whether this glossator writes format 1, of coded activations."""


def writer(path, latents, **options):
    """A writer on a fresh folder."""
    shutil.rmtree(path, ignore_errors=True)
    shape = {"n_latents": latents, "context_length": S, "window": W}
    return gl.IndexWriter(path, **shape, **known(**options))


def known(**options):
    """The options that this glossator's writer has."""
    return {name: value for name, value in options.items() if name in _OPTIONS}


def build(data, path, lossless=False, durable=True):
    """Token-major batches in memory to a closed index on disk."""
    if (lossless or not durable) and not READ_FORMAT:
        return None
    data = open_data(data)
    tokens, latents = np.array(data.tokens), np.array(data.latents)
    activations = np.array(data.activations)
    os.sync()

    def run():
        with writer(path, data.shape.latents, lossless=lossless, durable=durable) as out:
            for first in range(0, len(tokens), BATCH):
                rows = slice(first, first + BATCH)
                out.add(tokens[rows], latents[rows], activations[rows], data.documents[rows])

    return {"seconds": timed(run)[0], "files": files_of(path)}


def build_sorted(data, path, durable=False):
    """Runs of 65,536 tokens, sorted by latent, in memory to a closed index on disk."""
    if not hasattr(gl.IndexWriter, "add_sorted"):
        return None
    data = open_data(data)
    tokens, runs = np.array(data.tokens), [data.run(number) for number in range(data.n_runs)]
    os.sync()

    def run():
        with writer(path, data.shape.latents, durable=durable) as out:
            for first, starts, positions, activations in runs:
                rows = slice(first, first + BATCH)
                out.add_sorted(tokens[rows], starts, positions, activations, data.documents[rows])

    return {"seconds": timed(run)[0], "hash": gl.Index.open(path).hash}


def identity(path):
    """The hash of an index."""
    return {"hash": gl.Index.open(path).hash}


def build_memory(data, path):
    """The most memory of a build beyond that before its first batch, which lies in one buffer."""
    data = open_data(data)
    buffers = [np.ones((BATCH, *a.shape[1:]), a.dtype) for a in _columns(data)]
    warm = f"{path}.warm"
    with writer(warm, data.shape.latents) as out:
        out.abandon()
    shutil.rmtree(warm, ignore_errors=True)
    files = [(data.folder / f"{name}.npy").open("rb", buffering=0) for name in _NAMES]
    for file, array in zip(files, _columns(data), strict=True):
        file.seek(array.offset)
    reset_peak()
    before, anonymous = memory("VmRSS"), memory("RssAnon")
    most, done = [anonymous], threading.Event()

    def watch():
        while not done.wait(0.02):
            most[0] = max(most[0], memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with writer(path, data.shape.latents, durable=False) as out:
        for first in range(0, data.shape.contexts, BATCH):
            n = min(BATCH, data.shape.contexts - first)
            for file, buffer in zip(files, buffers, strict=True):
                _fill(file, buffer[:n])
            tokens, latents, activations = (buffer[:n] for buffer in buffers)
            out.add(tokens, latents, activations, data.documents[first : first + n])
    done.set()
    watcher.join()
    return {"bytes": memory("VmHWM") - before, "anonymous": most[0] - anonymous}


_NAMES = ("tokens", "latents", "activations")


def _columns(data):
    return [getattr(data, name) for name in _NAMES]


def _fill(file, buffer):
    """Read a whole array: one call gives 2 GiB at most."""
    view = memoryview(buffer).cast("B")
    while len(view):
        view = view[file.readinto(view) :]


def sample_one(path, latent, calls=2_000):
    """40 stratified windows of one latent, a call each: seconds of every call, warm."""
    index = gl.Index.open(path)
    seeds = range(200)
    for seed in seeds:  # Every page that is looked at is checked at its first touch.
        index.sample([latent], STRATIFIED, seed)
    times = []
    for call in range(calls):
        seed = seeds[call % len(seeds)]
        begun = time.perf_counter_ns()
        examples = index.sample([latent], STRATIFIED, seed)
        times.append((time.perf_counter_ns() - begun) / 1e9)
        assert len(examples) == 40, len(examples)
    return {"seconds": times}


def sample_each(path, latents):
    """The default plan for some latents, a call each, with and without opening the index."""
    begun = time.perf_counter()
    index = gl.Index.open(path)
    opened = time.perf_counter() - begun
    first = [timed(index.sample, [latent])[0] for latent in latents]
    warm = [timed(index.sample, [latent])[0] for latent in latents]
    return {"cold": (opened + sum(first)) / len(latents), "seconds": warm}


def sample_all(path, block=1_024, latents=None):
    """Explainer 40, scorer 50 and 50 negatives of all latents, a block a call: seconds."""
    index = gl.Index.open(path)
    ids = np.arange(index.n_latents) if latents is None else np.asarray(latents)
    begun, rows = time.perf_counter(), 0
    for first in range(0, len(ids), block):
        rows += len(index.sample(ids[first : first + block]))
    return {"seconds": time.perf_counter() - begun, "rows": rows, "latents": len(ids)}


LADDER = ("random", "peak_token", "near_token", "decoder", "decoder_unfiltered")
"""The kinds of negatives that need no other model."""
NEAREST = 10
"""Neighbours of each latent."""


@dataclass(frozen=True)
class Table:
    """Neighbours without sense, none of them kin: what a draw reads of `gl.neighbours`."""

    ids: np.ndarray
    relation: np.ndarray
    coder_hash: str = ""


def _neighbours(n_latents):
    """`NEAREST` others of each latent, drawn evenly."""
    steps = np.random.default_rng(6).integers(1, n_latents, (n_latents, NEAREST))
    ids = (np.arange(n_latents)[:, None] + steps) % n_latents
    return Table(ids.astype(np.uint32), np.zeros(ids.shape, np.uint8))


def negatives(path, kinds=LADDER, n=50, bare=False, block=1_024):
    """`n` negatives of each of some kinds (a list each) for all latents, a block a call: seconds.

    Beside the default plan's 40 windows to explain and 50 to score on, or without if `bare`. The
    list of words is made before, in `first` seconds.
    """
    index = gl.Index.open(path)
    table = _neighbours(index.n_latents)
    lists = tuple(gl.NegativePlan(kind=kind, n=n) for kind in kinds)
    plan = gl.SamplingPlan(negatives=lists)
    if bare:
        plan = gl.SamplingPlan(explain=gl.ExplainPlan(n=0), per_decile=0, negatives=lists)
    first, _ = timed(partial(index.sample, [0], plan, neighbours=table))
    ids, rows = np.arange(index.n_latents), 0
    begun = time.perf_counter()
    for start in range(0, len(ids), block):
        rows += len(index.sample(ids[start : start + block], plan, neighbours=table))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "first": first, "rows": rows, "peak": memory("VmHWM")}


def coactivation(path, data):
    """Counts of all latents with `NEAREST` others; some are compared with brute force."""
    index = gl.Index.open(path)
    table = _neighbours(index.n_latents)
    seconds, found = timed(index.coactivation, np.arange(index.n_latents), table.ids)
    data = open_data(data)
    for latent in (RARE, COMMON):
        own = _windows(data, latent)
        for place, other in enumerate(table.ids[latent, :2].tolist()):
            both = np.count_nonzero(own & _windows(data, other))
            assert found.both[latent, place] == both, (latent, other, both)
    return {"seconds": seconds, "peak": memory("VmHWM")}


def _windows(data, latent):
    """Whether a latent is active in each window, by reading everything."""
    parts = []
    for first in range(0, data.shape.contexts, BATCH):
        block = np.asarray(data.latents[first : first + BATCH]) == latent
        parts.append(block.reshape(-1, W * data.shape.k).any(axis=1))
    return np.concatenate(parts)


def postings(path):
    """`postings` of every latent, ascending: seconds. A first pass checks the pages."""
    index = gl.Index.open(path)
    for latent in range(index.n_latents):
        index.postings(latent)
    begun, amount = time.perf_counter(), 0
    for latent in range(index.n_latents):
        amount += len(index.postings(latent)[0])
    return {"seconds": time.perf_counter() - begun, "amount": amount}


def decode(path):
    """Every list in stored order into a reused buffer: seconds of the second pass."""
    index = gl.Index.open(path)
    if not hasattr(index._core, "decode"):
        return None
    latents = np.arange(index.n_latents, dtype=np.uint32)
    index._core.decode(latents)
    seconds, amount = timed(index._core.decode, latents)
    return {"seconds": seconds, "amount": amount}


def cooccurrence(path, data):
    """Exact Jaccard neighbours of all latents, per token; some are compared with brute force."""
    index = gl.Index.open(path)
    if not hasattr(index, "cooccurrence"):
        return None
    seconds, found = timed(index.cooccurrence, np.arange(index.n_latents))
    data, ids = open_data(data), np.random.default_rng(0).integers(0, index.n_latents, 4)
    field = found.__getitem__ if hasattr(found, "__getitem__") else lambda n: getattr(found, n)
    jaccard = np.asarray(field("jaccard")).reshape(index.n_latents, -1)
    for latent in {*ids.tolist(), COMMON}:
        expected = -np.sort(-_jaccard(data, latent))[: jaccard.shape[1]]
        measured = np.nan_to_num(jaccard[latent])
        assert np.allclose(measured, expected, atol=1e-6), (latent, measured, expected)
    return {"seconds": seconds, "peak": memory("VmHWM")}


def _jaccard(data, latent):
    """Jaccard similarity of one latent with every other, by reading everything: float64[L]."""
    both = np.zeros(data.shape.latents)
    for first in range(0, data.shape.contexts, BATCH):
        block = data.latents[first : first + BATCH].reshape(-1, data.shape.k)
        rows = block[(block == latent).any(axis=1)]
        both += np.bincount(rows.reshape(-1), minlength=data.shape.latents)
    either = data.counts + data.counts[latent] - both
    result = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    result[latent] = 0
    return result


def check(data, path, peers=None, latents=64):
    """Index and peers hold the postings that were given, to 1/32; returns the postings compared."""
    from benches.peer_tasks import READERS

    data, index = open_data(data), gl.Index.open(path)
    assert index.nnz == data.shape.nnz, (index.nnz, data.shape.nnz)
    assert np.array_equal(index.counts(), data.counts), "counts"
    readers = {name: READERS[name](folder) for name, folder in (peers or {}).items()}
    amount = 0
    drawn = np.random.default_rng(2).integers(0, data.shape.latents, latents)
    for latent in sorted({*drawn.tolist(), RARE, COMMON}):
        positions, values = index.postings(latent)
        amount += len(positions)
        for name, read in readers.items():
            where, what = read(latent)
            assert np.array_equal(positions, where), f"{name}: positions of latent {latent}"
            near = np.abs(what - values) <= np.maximum(what, values) / 32
            assert near.all(), f"{name}: activations of latent {latent}"
    for latent in (RARE, int(drawn[0])):  # And those that were given.
        context, offset, place = np.nonzero(np.asarray(data.latents) == latent)
        positions, values = index.postings(latent)
        assert np.array_equal(positions, context * S + offset), latent
        given = data.activations[context, offset, place]
        assert (np.abs(values - given) <= given / 32).all(), latent
    return {"amount": amount}


TASKS = (
    *(build, build_sorted, build_memory, identity, sample_one, sample_each, sample_all),
    *(negatives, coactivation, postings, decode, cooccurrence, check),
)

if __name__ == "__main__":
    serve({task.__name__: task for task in TASKS})
