"""delphi (`eai-delphi`), by its own interpreter: its environment needs `transformers<5`.

    DELPHI_PYTHON benches/delphi_peer.py build --data='"FOLDER"' --path='"CACHE"'

The cache is written by `InMemoryCache.save` and `LatentCache.save_splits`; examples come from
`LatentDataset` with the default configurations. Nothing here imports glossator.
"""

import argparse
import json
import logging
import shutil
import time
from pathlib import Path

import numpy as np

SPLITS = 5
BATCH = 32
"""Contexts in a batch of the cache, delphi's default."""
LARGE = 1_024
"""Contexts that are looked at together where a split is written at a time."""


def build(data, path):
    """Batches as `InMemoryCache.add` leaves them (not timed) to a cache on disk: seconds.

    Takes 68 bytes of memory a non-zero; see `build_by_splits`.
    """
    writer, tokens, arrays = _writer(data)
    cache = writer.cache
    for first in range(0, len(tokens), BATCH):
        locations, activations = _entries(*arrays, first, BATCH)
        cache.latent_locations_batches["m"].append(locations)
        cache.latent_activations_batches["m"].append(activations)
        cache.tokens_batches["m"].append(tokens[first : first + BATCH])
    folder = _emptied(path)
    begun = time.perf_counter()
    cache.save()
    writer.save_splits(n_splits=SPLITS, save_dir=folder)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "files": _finish(writer, folder, tokens)}


def build_by_splits(data, path):
    """The same cache, written by delphi a split at a time: for what does not fit into memory."""
    import torch

    writer, tokens, arrays = _writer(data)
    cache, folder = writer.cache, _emptied(path)
    cache.tokens["m"] = tokens
    for split in writer._generate_split_indices(SPLITS):
        start, end = (int(edge) for edge in split)
        kept = []
        for first in range(0, len(tokens), LARGE):
            locations, activations = _entries(*arrays, first, LARGE)
            mine = (locations[:, 2] >= start) & (locations[:, 2] <= end)
            kept.append((locations[mine], activations[mine]))
        cache.latent_locations["m"] = torch.cat([locations for locations, _ in kept])
        cache.latent_activations["m"] = torch.cat([activations for _, activations in kept])
        del kept
        writer._generate_split_indices = lambda _, split=split: [split]
        writer.save_splits(n_splits=SPLITS, save_dir=folder)
    return {"files": _finish(writer, folder, tokens)}


def _writer(data):
    """A writer of delphi's with an empty cache, the tokens, and the entries."""
    import torch
    from delphi.latents.cache import LatentCache

    tokens = torch.from_numpy(np.load(f"{data}/tokens.npy").astype(np.int64))
    writer = LatentCache(None, {}, batch_size=BATCH)
    writer.width = json.loads(Path(data, "shape.json").read_text())["latents"]
    names = ("latents", "activations")
    return writer, tokens, [np.load(f"{data}/{name}.npy", mmap_mode="r") for name in names]


def _entries(latents, activations, first, contexts):
    """Locations [n, 3] and activations [n] of some contexts."""
    import torch

    rows = slice(first, min(first + contexts, len(latents)))
    n, (_, context_length, k) = rows.stop - first, latents.shape
    where = torch.empty(n * context_length * k, 3, dtype=torch.int64)
    where[:, 0] = torch.arange(first, rows.stop).repeat_interleave(context_length * k)
    where[:, 1] = torch.arange(context_length).repeat_interleave(k).repeat(n)
    where[:, 2] = torch.from_numpy(latents[rows].astype(np.int64).reshape(-1))
    return where, torch.from_numpy(np.array(activations[rows]).reshape(-1))


def _emptied(path):
    folder = Path(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _finish(writer, folder, tokens):
    """Writes the configuration; the sizes of the files."""
    from delphi.config import CacheConfig

    settings = CacheConfig()
    settings.n_tokens, settings.n_splits = tokens.numel(), SPLITS
    writer.save_config(folder, settings, "local")
    return {file.name: file.stat().st_size for file in folder.rglob("*.safetensors")}


def _opener(path, latents, tokenizer):
    """Opens the cache for some latents; imports and the tokenizer are not its work."""
    import torch
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset
    from transformers import PreTrainedTokenizerFast

    reader = PreTrainedTokenizerFast(tokenizer_file=tokenizer)
    return lambda: LatentDataset(
        raw_dir=Path(path),
        sampler_cfg=SamplerConfig(),
        constructor_cfg=ConstructorConfig(),
        tokenizer=reader,
        modules=["m"],
        latents={"m": torch.tensor(sorted(latents))},
    )


def check(data, path, tokenizer, latents):
    """The cache holds what was given, to float16; latents in ascending order. Amount compared."""
    given = np.load(f"{data}/latents.npy", mmap_mode="r")
    exact = np.load(f"{data}/activations.npy", mmap_mode="r")
    amount, context_length = 0, given.shape[1]
    for buffer in _opener(path, latents, tokenizer)().buffers:
        found, locations, activations = buffer.load_data_per_latent()
        for latent, where, values in zip(found, locations, activations, strict=True):
            place = np.nonzero(given == int(latent))
            rows = where.numpy()
            assert np.array_equal(rows[:, 0], place[0]), f"contexts of latent {latent}"
            assert np.array_equal(rows[:, 1], place[1]), f"offsets of latent {latent}"
            assert np.allclose(values.float().numpy(), exact[place], rtol=1e-3)
            assert rows[:, 1].max() < context_length
            amount += len(rows)
    return {"amount": amount}


def examples(path, tokenizer, latents):
    """Examples of some latents: seconds of opening and of going through them, each latent."""
    open_dataset = _opener(path, latents, tokenizer)
    begun = time.perf_counter()
    dataset = open_dataset()
    opened = time.perf_counter() - begun
    records = sum(1 for _ in dataset)
    total = time.perf_counter() - begun
    n = len(latents)
    return {"open": opened / n, "seconds": total / n, "records": records}


def versions():
    """What takes part."""
    from importlib.metadata import version

    return {name: version(name) for name in ("eai-delphi", "transformers")}


TASKS = (build, build_by_splits, check, examples, versions)


def main():
    """Run the task that the command line names; its result is the last line."""
    logging.getLogger("delphi").setLevel(logging.ERROR)
    # Where memory runs out, this process is the one to end.
    Path("/proc/self/oom_score_adj").write_text("1000")
    parser = argparse.ArgumentParser()
    tasks = {task.__name__: task for task in TASKS}
    parser.add_argument("task", choices=tasks)
    asked, rest = parser.parse_known_args()
    options = dict(option.removeprefix("--").split("=", 1) for option in rest)
    print(json.dumps(tasks[asked.task](**{k: json.loads(v) for k, v in options.items()})))


if __name__ == "__main__":
    main()
