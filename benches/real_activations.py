"""The index on a real model's activations: size and build, beside Parquet with the same codes.

    python -m benches.real_activations --tokens 1000000
    python -m benches.real_activations --subject /path/to/all-MiniLM-L6-v2/model \\
        --hookpoint encoder.layer.2 --tokens 4000000

A top-K coder is trained on the first `--train` tokens as the demo trains it; then every token is
encoded once and the activations are kept in files below `--work`, from which all builds read. A
pass that was killed goes on where it was. Real activations are bursty: the bound of independent
positions is no floor for them, and an index may lie below it.
"""

import argparse
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
from benches.measure import ROOT, Figures, child, files_of, log, rounds, serve, timed
from benches.peer_tasks import bf16, codes, decoded, entropy_bits, position_bits

OURS, PARQUET = "glossator", "peer: Parquet, tuned, 8-bit codes"
NONE = 2**32 - 1
BATCH = 512
"""Contexts in a batch."""
NAMES = ("tokens", "latents", "activations", "documents", "mask")
PASS = 64
"""Contexts that the subject reads at a time."""


def harvest(asked, folder):
    """Run subject and coder over the corpus, and keep what they give."""
    from glossator.coders import TrainConfig
    from glossator.corpus import open_contexts, open_corpus, pack
    from glossator.hidden import collect_hidden, train_coder
    from glossator.subjects import load_subject

    subject = load_subject(asked.subject, asked.hookpoint)

    def contexts(name, tokens):
        path = folder / name
        if path.is_dir():
            return open_contexts(path)
        packed = pack(open_corpus(asked.corpus), subject.tokenizer, tokens=tokens or None)
        return packed.store(path)

    few = contexts("contexts-train", asked.train)
    hidden = partial(collect_hidden, subject, few, folder / "hidden.f32")
    config = TrainConfig(n_latents=asked.latents, k=asked.k)
    coder = train_coder(subject, few, hidden, config)
    for path in folder.glob("hidden.f32*"):
        path.unlink()
    all_of_them = contexts("contexts", asked.tokens)
    _encode(subject, coder, all_of_them, folder, asked)


def _encode(subject, coder, contexts, folder, asked):
    import torch

    n, length = len(contexts), contexts.context_length
    kinds = {"tokens": "u4", "latents": "u4", "activations": "f4", "documents": "u8", "mask": "?"}
    marker = folder / "done.json"
    done = json.loads(marker.read_text()) if marker.is_file() else 0
    arrays = {}
    for name, kind in kinds.items():
        dims = (n, length, coder.k) if name in ("latents", "activations") else (n, length)
        path = folder / f"{name}.npy"
        if done:
            arrays[name] = np.lib.format.open_memmap(path, "r+")
        else:
            arrays[name] = np.lib.format.open_memmap(path, "w+", kind, dims)
    begun, at, told = time.perf_counter(), done, 0.0
    for batch in contexts.batches(start=done, size=PASS):
        rows = slice(at, at + len(batch))
        live = torch.from_numpy(batch.mask)
        found, values = coder.encode(subject.hidden(batch.tokens, batch.attended)[live])
        arrays["tokens"][rows], arrays["documents"][rows] = batch.tokens, batch.document_ids
        arrays["mask"][rows] = batch.mask
        arrays["latents"][rows] = NONE
        arrays["activations"][rows] = 0
        arrays["latents"][rows][batch.mask] = found.numpy().astype(np.uint32)
        arrays["activations"][rows][batch.mask] = values.numpy()
        at += len(batch)
        spent = time.perf_counter() - begun
        if spent > told + 20:
            told = spent
            rate = (at - done) * length / spent
            log(f"  {at * length:,} of {n * length:,} tokens, {rate:,.0f} tokens/s")
            for array in arrays.values():
                array.flush()
            marker.write_text(str(at))
    for array in arrays.values():
        array.flush()
    facts = {"latents": coder.n_latents, "k": coder.k, "subject": subject.name}
    facts |= {"hookpoint": subject.hookpoint, "corpus": asked.corpus}
    (folder / "facts.json").write_text(json.dumps(facts))


def _load(data):
    arrays = [np.load(f"{data}/{name}.npy") for name in NAMES]
    return json.loads(Path(data, "facts.json").read_text()), arrays


def build(data, path, lossless=False, durable=False):
    """Token-major batches to a closed index: seconds."""
    from benches.index_tasks import known

    import glossator as gl

    facts, arrays = _load(data)
    shutil.rmtree(path, ignore_errors=True)
    length = arrays[0].shape[1]
    os.sync()

    def run():
        shape = {"n_latents": facts["latents"], "context_length": length}
        with gl.IndexWriter(path, **shape, **known(lossless=lossless, durable=durable)) as out:
            for first in range(0, len(arrays[0]), BATCH):
                out.add(*(array[first : first + BATCH] for array in arrays))

    seconds = timed(run)[0]
    return {"seconds": seconds, "files": files_of(path), "nnz": gl.Index.open(path).nnz}


def sorted_columns(data):
    """Latent-major: counts [L], positions, activations."""
    facts, (_, latents, activations, _, _) = _load(data)
    flat, values = latents.reshape(-1), activations.reshape(-1)
    kept = np.nonzero((flat != NONE) & (values > 0))[0]
    ids = flat[kept]
    order = np.argsort(ids.astype(np.uint16) if facts["latents"] <= 65_536 else ids, kind="stable")
    positions = (kept[order] // facts["k"]).astype(np.int32)
    return np.bincount(ids, minlength=facts["latents"]), positions, values[kept[order]]


def parquet(data, path, values="codes"):
    """The same postings in tuned Parquet: bytes."""
    from benches.peer_tasks import write_parquet

    counts, positions, activations = sorted_columns(data)
    starts = np.concatenate([[0], np.cumsum(counts)])
    shutil.rmtree(path, ignore_errors=True)
    Path(path).mkdir(parents=True)
    write_parquet(Path(path), starts, positions, activations, values)
    return {"files": files_of(path)}


def check(data, path):
    """The index holds the sorted columns, to 1/32; returns bounds in bits per posting."""
    import glossator as gl

    index = gl.Index.open(path)
    counts, positions, activations = sorted_columns(data)
    assert np.array_equal(index.counts(), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    for latent in np.random.default_rng(0).integers(0, len(counts), 64):
        column = slice(starts[latent], starts[latent + 1])
        where, what = index.postings(int(latent))
        assert np.array_equal(where, positions[column]), latent
        given = activations[column]
        assert (np.abs(what - given) <= given / 32).all(), latent
    assert (np.abs(decoded(codes(activations)) - activations) <= activations / 32).all()
    histogram = np.bincount(bf16(activations), minlength=65_536)
    return {
        "positions": position_bits(counts, index.n_tokens),
        "codes": entropy_bits(histogram.reshape(-1, 8).sum(axis=1)),
        "bf16": entropy_bits(histogram),
        "tokens": index.n_tokens,
        "live": int(np.count_nonzero(counts)),
    }


def measure(asked, folder):
    """Rows of one subject."""
    from benches.index_tasks import READ_FORMAT

    run = partial(child, "benches.real_activations", data=str(folder))
    name = Path(asked.name or asked.subject).name
    results = rounds(asked.rounds, partial(run, "build", path=str(folder / "index")))[0]
    bound = run("check", path=str(folder / "index"))
    nnz = results[0]["nnz"]
    shape = f"{name} T={bound['tokens']} L={asked.latents} k={asked.k}"
    figures = Figures(asked.out)
    rates = [nnz / found["seconds"] for found in results]
    figures.add("real activations: build", OURS, shape, "rate", "non-zeros/s", rates)
    ops = {"codes": "real activations: size"}
    if READ_FORMAT:
        ops["bf16"] = "real activations: size, lossless bf16"
    for values, op in ops.items():
        found = results[0]
        if values == "bf16":
            found = run("build", path=str(folder / "exact"), lossless=True)
        files = {k: v for k, v in found["files"].items() if not Path(k).name.startswith("tokens")}
        beside = run("parquet", path=str(folder / f"parquet-{values}"), values=values)["files"]
        for who, sizes in ((OURS, files), (PARQUET.replace("8-bit codes", values), beside)):
            bits = 8 * sum(sizes.values()) / nnz
            figures.add(op, who, shape, "size", "bits/non-zero", bits)
        limit = bound["positions"] + bound[values]
        name = "limit: entropy if positions were independent"
        figures.add(op, name, shape, "size", "bits/non-zero", limit)
    log(f"{bound['live']:,} of {asked.latents:,} latents are active")
    figures.write()


def main():
    """Harvest what is not there yet, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="smollm2", help="as `load_subject` takes it")
    parser.add_argument("--name", help="what the figures call it; the end of --subject by default")
    parser.add_argument("--hookpoint")
    parser.add_argument("--corpus", default="packages")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="0: the whole corpus")
    parser.add_argument("--train", type=int, default=300_000, help="tokens the coder is trained on")
    parser.add_argument("--latents", type=int, default=4_096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/tmp/glossator-real"))
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results" / "index.csv")
    asked = parser.parse_args()
    name = Path(asked.name or asked.subject).name
    folder = asked.work / f"{name}-{asked.corpus}-{asked.tokens}-{asked.latents}-{asked.k}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "facts.json").is_file():
        harvest(asked, folder)
    measure(asked, folder)


TASKS = (build, parquet, check)

if __name__ == "__main__":
    import sys

    named = {task.__name__: task for task in TASKS}
    serve(named) if len(sys.argv) > 1 and sys.argv[1] in named else main()
