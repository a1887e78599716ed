"""Builds of two hookpoints that are killed: a program that forks one for each line it is given.

A fork needs no imports, so 200 builds can be killed in the time of 200 builds. Before the first
fork nothing here calls into the core, which would start threads.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from glossator.index import Index, IndexWriter

LENGTH, CONTEXTS = 8192, 38
LATENTS = {"a": 6, "b": 300}
BATCH = 3
PARAMETERS = {
    "n_latents": LATENTS,
    "context_length": LENGTH,
    # A segment of 131,072 tokens: what is added is spilled once before it is full.
    "segment_contexts": 16,
    "first_context": 5,
    "split_seed": 3,
}


class Corpus:
    """Text and activations, the latter by token and, in batches, by latent."""

    def __init__(self):
        rng = np.random.default_rng(0)
        shape = (CONTEXTS, LENGTH)
        self.tokens = rng.integers(0, 50_000, shape, dtype=np.uint32)
        self.documents = (np.arange(CONTEXTS * LENGTH, dtype=np.uint64) // 300).reshape(shape)
        self.mask = rng.random(shape) < 0.98
        self.entries = {}
        for name, n in LATENTS.items():
            k = 2 if name == "a" else 1
            first = rng.integers(0, n, shape, dtype=np.uint32)
            latents = (first[:, :, None] + np.arange(k, dtype=np.uint32)) % n
            values = rng.random((*shape, k), dtype=np.float32)
            values[rng.random(values.shape) < 0.3] = 0
            self.entries[name] = (latents, values)
        self.sorted = {at: self.by_latent(at) for at in range(0, CONTEXTS, BATCH)}

    def by_latent(self, at):
        """What `add_sorted` takes of the batch that begins at row `at`."""
        columns = ({}, {}, {})
        for name, (latents, values) in self.entries.items():
            batch = slice(at, at + BATCH)
            ids, flat = latents[batch].reshape(-1), values[batch].reshape(-1)
            kept = np.flatnonzero(flat)
            order = kept[np.argsort(ids[kept], kind="stable")]
            columns[0][name] = np.searchsorted(ids[order], np.arange(LATENTS[name] + 1))
            columns[1][name] = order // latents.shape[2]
            columns[2][name] = flat[order]
        return columns

    def add(self, writer, context, way):
        """Add the rest of the batch that holds `context`: in one way or the other."""
        row = context - PARAMETERS["first_context"]
        at = row // BATCH * BATCH
        if way and row == at:
            rows = slice(at, at + BATCH)
            given = self.sorted[at]
            add = writer.add_sorted
        else:
            rows = slice(row, at + BATCH)
            given = [{n: e[i][rows] for n, e in self.entries.items()} for i in (0, 1)]
            add = writer.add
        text = (self.documents[rows], self.mask[rows])
        add(self.tokens[rows], *given, *text, context=context)
        return context + len(self.tokens[rows])


def committed(path):
    """The end of what the two indices in a folder hold."""
    ends = []
    for name in LATENTS:
        index = Index.open(path / name, unfinished=True)
        index.verify()
        ends.append(index.first_context + index.n_contexts)
    return ends


def build(corpus, order, say):
    """One build, which says what it is about to do."""
    os.environ["RAYON_NUM_THREADS"] = str(order["threads"])
    path = Path(order["path"])
    say("open")
    with IndexWriter(path, durable=order["durable"], **PARAMETERS) as writer:
        say(f"next {writer.next_context}")
        first = PARAMETERS["first_context"]
        context = writer.next_context if order["jump"] else first
        while context < first + CONTEXTS:
            say("add")
            context = corpus.add(writer, context, order["way"])
        say("finish")
    say("done")


def killed(corpus, order):
    """Fork a build and kill it after `order["seconds"]`; what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            build(corpus, order, lambda text: os.write(writing, f"{text}\n".encode()))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    begun = time.perf_counter()
    said = b""
    while True:
        left = order["seconds"] - (time.perf_counter() - begun)
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            break
        part = os.read(reading, 1 << 16)
        if not part:
            break
        said += part
    while part := os.read(reading, 1 << 16):
        said += part
    os.close(reading)
    _, status = os.waitpid(child, 0)
    failed = os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
    return {
        "said": said.decode().split("\n")[:-1],
        "seconds": time.perf_counter() - begun,
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "failed": failed,
    }


class Builds:
    """The program, running."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def run(self, path, seconds=1e9, *, threads=1, jump=False, way=0, durable=True):
        order = {"path": str(path), "seconds": seconds, "threads": threads}
        order |= {"jump": jump, "way": way, "durable": durable}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def main():
    corpus = Corpus()
    for line in sys.stdin:
        print(json.dumps(killed(corpus, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
