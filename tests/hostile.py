"""Indices that someone made up: every checksum is right, and what stands in the files is not.

`python hostile.py SECONDS [SEED]` makes them up for so long, asks each all that can be asked, and
names the seed of the first that gets another answer than a result or a `GlossatorError`.
"""

import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from glossator.errors import GlossatorError
from glossator.index import Index, compact, join
from index_answers import QUESTIONS, data_files, reseal
from index_reference import corpus

SLOW = 20.0
"""Seconds that no single question about so small an index may take."""
MEMORY = 8 << 30
NUMBERS = [0, 1, 2, 7, 8, 127, 128, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]


def bases(folder):
    """Indices of several shapes, all small."""
    made = {
        "plain": corpus(9, windows=8, segment_contexts=5, first_context=2),
        "lossless": corpus(5, windows=4, segment_contexts=5),
        "wide": corpus(4, windows=40, window=1, n_latents=3, segment_contexts=4),
        "long": corpus(3, windows=250, window=2, n_latents=2, segment_contexts=3),
    }
    made["wide"].tokens = made["wide"].tokens + 2**20
    return [
        plain.build(folder / name, durable=False, lossless=name == "lossless")
        for name, plain in made.items()
    ]


def damage(draw, content):
    """Other content than this."""
    changed = bytearray(content)
    kind = draw.randrange(6)
    if kind == 0 or not changed:
        changed += draw.randbytes(draw.choice([1, 4, 8, 64]))
    elif kind == 1:
        del changed[draw.randrange(len(changed)) :]
    elif kind == 2:
        size = draw.choice([2, 4, 8])
        at = draw.randrange(max(1, len(changed) // size)) * size
        number = draw.choice(NUMBERS) + draw.randrange(2)
        changed[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
    elif kind == 3:
        begin, end = sorted(draw.randrange(len(changed) + 1) for _ in range(2))
        at = draw.randrange(len(changed))
        changed[at : at + end - begin] = changed[begin:end]
    elif kind == 4:
        begin, end = sorted(draw.randrange(len(changed) + 1) for _ in range(2))
        changed[begin:end] = draw.randbytes(end - begin)
    if kind == 5 or draw.random() < 0.3:
        for _ in range(draw.choice([1, 1, 2, 8])):
            if changed:
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def misstate(draw, index):
    """Another manifest than this."""
    numbers = [1, -1, 2**16, 2**24, 2**27, 2**32, 2**60]
    segment = draw.choice(index["segments"])
    place, name = draw.choice(
        [
            (index["parameters"], draw.choice(sorted(index["parameters"]))),
            (
                segment,
                draw.choice(["first_context", "contexts", "n_tokens", "nnz", "lists", "text"]),
            ),
        ]
    )
    if isinstance(place[name], bool):
        place[name] = not place[name]
    elif isinstance(place[name], int):
        place[name] = abs(place[name] + draw.choice(numbers)) % 2**64
    elif isinstance(place[name], str):
        place[name] = draw.choice(["..", "../text", "text", "/etc", "segments/x", "text/.."])
    elif draw.random() < 0.5:
        index["segments"].remove(segment)
    else:
        index["segments"].append(segment)


def make_up(draw, path):
    files = [file for file in data_files(path) if file.suffix != ".json" and file.stem != "pages"]
    kind = draw.randrange(8)
    if kind == 0:
        reseal(path, lambda index: misstate(draw, index))
        return
    if kind == 1:
        one, other = draw.sample(files, 2)
        one.write_bytes(other.read_bytes())
    else:
        for _ in range(draw.choice([1, 1, 1, 2, 4])):
            weights = [
                8 if file.stem in ("lists", "offsets", "document_starts") else 1 for file in files
            ]
            (file,) = draw.choices(files, weights)
            file.write_bytes(damage(draw, file.read_bytes()))
    reseal(path)


def ask_all(draw, path, scratch):
    """Everything, in any order; an answer or a `GlossatorError` each."""
    try:
        index = Index.open(path)
    except GlossatorError:
        return
    asks = [*QUESTIONS.values(), lambda index: index.verify()]
    asks.append(lambda index: join([path], scratch / "joined", durable=False))
    asks.append(lambda index: compact(path, durable=False))
    draw.shuffle(asks)
    for ask in asks:
        begun = time.monotonic()
        try:
            ask(index)
        except GlossatorError as error:
            if "\n" in str(error):
                raise AssertionError(f"not one line: {error}") from error
        if time.monotonic() - begun > SLOW:
            raise AssertionError("a question took too long")


def run(seconds, seed):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = bases(Path(folder))
        end, turns = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            draw = random.Random(seed + turns)
            path, scratch = Path(folder) / "made up", Path(folder) / "scratch"
            shutil.copytree(draw.choice(made), path)
            scratch.mkdir()
            # Should the process die, this is the last line that it wrote.
            print(seed + turns, flush=True)
            try:
                make_up(draw, path)
                ask_all(draw, path, scratch)
            except BaseException:
                traceback.print_exc()
                if len(sys.argv) > 3:
                    shutil.copytree(path, sys.argv[3], dirs_exist_ok=True)
                sys.exit(f"seed {seed + turns}")
            shutil.rmtree(path)
            shutil.rmtree(scratch)
            turns += 1
    print(f"{turns} made up", flush=True)


if __name__ == "__main__":
    run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
