"""All that an index says, question by question, so that two of them can be compared."""

import json

import numpy as np
import xxhash

from glossator.errors import CorruptIndexError
from glossator.index import Index
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan

PAGE = 1 << 16
PLANS = [
    SamplingPlan(),
    SamplingPlan(
        explain=ExplainPlan(kind="top", n=10),
        per_decile=0,
        per_bin=2,
        negatives=(NegativePlan(kind="random", n=5, margin=1),),
        length=3,
        centred=True,
    ),
]


def latents(index):
    return np.arange(index.n_latents)


def samples(index, plan):
    examples = index.sample(latents(index), plan, seed=3)
    columns = ("latent", "start", "tokens", "activations", "decile", "split", "kind", "document")
    shortfalls = sorted(map(str, examples.shortfalls.to_pylist()))
    return [*(getattr(examples, name) for name in columns), shortfalls]


def contexts(index):
    return index.contexts(index.first_context + np.arange(index.n_contexts))


def everywhere(index):
    """The position of every window."""
    base = index.first_context * index.context_length
    end = base + index.n_contexts * index.context_length
    return np.arange(base, end, index.window, dtype=np.uint64)


def each(ask):
    return lambda index: [part for latent in latents(index) for part in ask(index, latent)]


QUESTIONS = {
    "counts": lambda index: [index.counts()],
    "postings": each(lambda index, latent: index.postings(latent)),
    "windows": each(lambda index, latent: index.windows(latent)),
    "deciles": lambda index: [index.deciles()],
    "histogram": lambda index: index.histogram(latents(index)),
    "top": lambda index: index.top(latents(index), 300),
    "top of a side": lambda index: index.top(latents(index), 5, "score"),
    "active": each(lambda index, latent: [index.active(latent, everywhere(index))]),
    "activations": each(
        lambda index, latent: [index.activations(latent, everywhere(index), index.window)]
    ),
    "contexts": contexts,
    "sides": lambda index: [index.sides(), index.eligible(), index.overlap_share()],
    "summary": lambda index: index.summary().values(),
    "sample": lambda index: samples(index, PLANS[0]),
    "centred sample": lambda index: samples(index, PLANS[1]),
    "cooccurrence": lambda index: vars(index.cooccurrence(latents(index), 3)).values(),
    "itself": lambda index: [index.nnz, index.n_tokens, index.attributes, index.precision],
}


def plain_bytes(parts):
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in parts]


def answers(index):
    """Every answer, as bytes, by question."""
    return {name: plain_bytes(ask(index)) for name, ask in QUESTIONS.items()}


def wrong_answers(open_index, expected, turn=0):
    """Those questions, beginning with the `turn`-th, that get another answer than the expected one.

    A damaged index may refuse any of them as damaged. Anything else that is raised is raised here.
    """
    try:
        index = open_index()
    except CorruptIndexError:
        return []
    names = list(QUESTIONS)
    turn %= len(names)
    wrong = []
    for name in names[turn:] + names[:turn]:
        try:
            if plain_bytes(QUESTIONS[name](index)) != expected[name]:
                wrong.append(name)
        except CorruptIndexError:
            pass
    return wrong


def data_files(path):
    """Every file of an index but the lock, in the order of their names."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [file for file in files if file.name != "lock"]


def reseal(path, change=lambda index: None):
    """Give whatever stands in the files of an index the right sizes and checksums.

    `change` may change what the manifest says first.
    """
    manifest = path / "manifest.json"
    content = json.loads(manifest.read_text())
    for segment in content["index"]["segments"]:
        for folder in (segment["lists"], segment["text"]):
            names = [name for name in segment["files"] if name.startswith(f"{folder}/")]
            names.sort()
            pages = {name: page_hashes((path / name).read_bytes()) for name in names}
            last = f"{folder}/pages.u64"
            pages[last] = b"".join(pages[name] for name in names if name != last)
            (path / last).write_bytes(pages[last])
            pages[last] = page_hashes(pages[last])
            for name in names:
                record = {"bytes": (path / name).stat().st_size}
                record["xxh3"] = xxhash.xxh3_64_hexdigest(pages[name])
                segment["files"][name] = record
    change(content["index"])
    compact = json.dumps(content["index"], separators=(",", ":"), ensure_ascii=False)
    content["xxh3"] = xxhash.xxh3_64_hexdigest(compact.encode())
    manifest.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def page_hashes(content):
    pages = (content[at : at + PAGE] for at in range(0, len(content), PAGE))
    return b"".join(xxhash.xxh3_64_intdigest(page).to_bytes(8, "little") for page in pages)


def opened(path):
    return lambda: Index.open(path)
