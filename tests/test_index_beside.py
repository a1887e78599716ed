"""A reader beside a writer that adds to the same index: what opens is whole, and stays as it was.

`GLOSSATOR_SOAK_SECONDS` makes it longer than the minute of a usual run.
"""

import os
import random
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from glossator.index import Index
from index_answers import QUESTIONS, answers, plain_bytes
from index_reference import corpus, scratch_folders

SECONDS = float(os.environ.get("GLOSSATOR_SOAK_SECONDS", "60"))
CONTEXTS = 40
HELD = 6
FEWEST = 20

# Builds one index after the other, in steps: each opens a writer, adds a few contexts, and either
# finishes or lets go. The reader follows the number of the newest.
PROGRAM = textwrap.dedent(
    """
    import itertools, pathlib, random, shutil, sys
    from glossator.index import IndexWriter, compact
    from index_reference import corpus

    root, contexts, merging = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "merging"
    draw = random.Random(0)
    plain = corpus(contexts, segment_contexts=8, windows=4)
    latents, activations = plain.topk()
    for number in itertools.count():
        path = root / str(number)
        at = 0
        while at < contexts:
            with IndexWriter(path, durable=False, **plain.parameters) as writer:
                at = writer.next_context
                for _ in range(draw.randrange(3)):
                    rows = slice(at, at + draw.randrange(1, 4))
                    given = (plain.tokens, latents, activations, plain.documents, plain.mask)
                    writer.add(*(array[rows] for array in given), context=at)
                    at += len(plain.tokens[rows])
                if draw.random() < 0.2:
                    writer.abandon()
                    at = 0
            if merging and draw.random() < 0.2:
                compact(path, durable=False)
        shutil.rmtree(root / str(number - 2), ignore_errors=True)
        print(number, flush=True)
    """
)


class Snapshots:
    """What an index of the first n contexts says: by the plain reference and by a build at once."""

    def __init__(self, scratch):
        self.plain = corpus(CONTEXTS, segment_contexts=8, windows=4)
        self.scratch = scratch
        self.known = {}

    def of(self, n):
        if n not in self.known:
            whole = self.plain
            plain = corpus(n, segment_contexts=8, windows=4)
            for name in ("tokens", "documents", "mask", "dense"):
                setattr(plain, name, getattr(whole, name)[:n])
            index = Index.open(plain.build(self.scratch(), durable=False))
            for latent in range(plain.n_latents):
                for found, expected in zip(
                    index.postings(latent), plain.postings(latent), strict=True
                ):
                    np.testing.assert_array_equal(found, expected)
            self.known[n] = answers(index)
        return self.known[n]


def newest(root):
    numbers = [int(folder.name) for folder in root.iterdir() if (folder / "manifest.json").exists()]
    return root / str(max(numbers, default=0))


@pytest.mark.parametrize("merging", ["adding", "merging"])
@pytest.mark.timeout(SECONDS + 300)
def test_every_snapshot_that_opens_is_whole_and_stays_as_it_was(merging):
    draw = random.Random(1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with scratch_folders() as scratch:
        expected = Snapshots(scratch)
        expected.of(CONTEXTS)  # The first takes a while.
        root = scratch()
        root.mkdir()
        command = [sys.executable, "-c", PROGRAM, str(root), str(CONTEXTS), merging]
        writer = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            seen, held = set(), []
            while not (newest(root) / "manifest.json").exists():
                assert writer.poll() is None
                time.sleep(0.01)
            end = time.monotonic() + SECONDS / 2
            while time.monotonic() < end or len(seen) < FEWEST:
                assert writer.poll() is None
                path = newest(root)
                index = Index.open(path, unfinished=True)
                assert answers(index) == expected.of(index.n_contexts)
                if path == newest(root):
                    index.verify()
                seen.add((path.name, index.n_contexts))
                held = [*draw.sample(held, min(len(held), HELD - 1)), index]
                # What was opened before says what it said, though its files are gone.
                old, name = draw.choice(held), draw.choice(list(QUESTIONS))
                assert plain_bytes(QUESTIONS[name](old)) == expected.of(old.n_contexts)[name]
            assert writer.poll() is None
        finally:
            writer.kill()
            writer.wait()
