"""A run of one real coder's size, made up: what the exports are timed on.

    world = make(Path("/tmp/glossator-figures"), Shape(tokens=2_000_000), judged=1_000)
    with world.open() as run:
        run.index, run.store, run.neighbours           # what an export asks of a run

The index is of `benches.synthetic`. Every latent with windows has a rule of 30 tokens with its 24
figures; `judged` of them have a second explanation and its null, 40 examples, and a verdict on each
by detection and by fuzzing. All of it goes through `IndexWriter` and `Store`, once.
"""

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benches import synthetic
from benches.measure import log
from tokenizers import Tokenizer, models

from glossator.index import Index, IndexWriter
from glossator.neighbours import Neighbours
from glossator.records import Explanation, Rule, Verdict, content_id, table_of
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from glossator.score.nulls import NULL
from glossator.shown import example_rows
from glossator.store import Store
from glossator.text import TokenText
from glossator.triage import triage

HOOKPOINT = "model.layers.6"
NEIGHBOURS = 10
JUDGE = "delimited:judge"
COUNTS = ("tp", "fp", "fn", "tn")
SHARES = ("precision", "recall", "f1")
PLAN = SamplingPlan(
    explain=ExplainPlan(kind="top", n=0), per_decile=2, negatives=(NegativePlan(n=20),)
)
_AT_ONCE = 1_024


@dataclass(frozen=True)
class World:
    """The folder of a run, and the data that its index is of."""

    folder: Path
    data: Path

    @contextmanager
    def open(self):
        """What an export asks of a run."""
        with Store.open(self.folder, write=False) as store:
            yield _Run(self.folder, store)


class _Run:
    hookpoint = HOOKPOINT

    def __init__(self, folder, store):
        self.path, self.store = folder, store
        self.index = Index.open(folder / "index")
        self.text = TokenText.open(folder / "tokenizer.json")
        self.neighbours = Neighbours.read(folder / "neighbours.parquet")
        self.precision = self.index.precision

    def table(self, name):
        return self.store.table(name)


def make(root, shape, judged=1_000):
    """The run of a shape in a folder below `root`, made if it is not there."""
    data = synthetic.make(root, shape)
    world = World(data.folder / f"exports-{judged}", data.folder)
    scratch = world.folder.with_suffix(".partial")
    if not world.folder.is_dir():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        _write(scratch, data, judged)
        scratch.rename(world.folder)
        log(f"{world.folder}: made")
    return world


def _write(folder, data, judged):
    with IndexWriter(
        folder / "index",
        n_latents=data.shape.latents,
        context_length=synthetic.S,
        window=synthetic.W,
        attributes={"hookpoint": HOOKPOINT},
    ) as writer:
        step = synthetic.RUN // synthetic.S
        for first in range(0, data.shape.contexts, step):
            rows = slice(first, first + step)
            parts = data.tokens, data.latents, data.activations, data.documents
            writer.add(*(part[rows] for part in parts))
    words = {f"w{token}": token for token in range(synthetic.VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.save(str(folder / "tokenizer.json"))
    index, text = Index.open(folder / "index"), TokenText(tokenizer)
    rng = np.random.default_rng(synthetic.SEED)
    L = index.n_latents
    ids = (np.arange(L)[:, None] + 1 + np.argsort(rng.random((L, NEIGHBOURS)))) % L
    cosines = -np.sort(-rng.uniform(0.2, 0.9, ids.shape), axis=1)
    near = Neighbours(ids.astype(np.uint32), cosines.astype(np.float32))
    near.with_index(index).write(folder / "neighbours.parquet")
    kinds = triage(index)
    with Store.open(folder) as store:
        _latents(store, kinds, rng)
        live = np.flatnonzero(kinds["status"] == "live")
        for at in range(0, len(live), _AT_ONCE):
            _rules(store, live[at : at + _AT_ONCE], rng)
        chosen = rng.choice(live, min(judged, len(live)), replace=False)
        for at in range(0, len(chosen), 128):
            _judged(store, index, text, np.sort(chosen[at : at + 128]).astype(np.uint32), rng)


def _latents(store, kinds, rng):
    n = len(kinds["latent"])
    logits = [
        [
            [[int(token), round(float(value), 4)] for token, value in zip(*row, strict=True)]
            for row in zip(
                rng.integers(0, synthetic.VOCABULARY, (n, 10)),
                -np.sort(-rng.random((n, 10)), axis=1),
                strict=True,
            )
        ]
        for _ in range(2)
    ]
    columns = {**kinds, "top_logits": logits[0], "bottom_logits": logits[1]}
    store.add("latents", table_of("latents", columns, hookpoint=HOOKPOINT, type="other"))


def _rules(store, latents, rng):
    said = []
    for latent in latents.tolist():
        tokens = rng.choice(synthetic.VOCABULARY, 30, replace=False).tolist()
        text = f"Activates on the tokens {', '.join(f'“w{token}”' for token in tokens)}."
        said.append(Explanation.of(HOOKPOINT, latent, "rules", text, Rule(tokens=tuple(tokens))))
    store.add("explanations", said)
    rows = []
    for one in said:
        share = float(rng.random())
        for before in ("", "token_"):
            rows += [_score(one, "corpus", before + name, share) for name in SHARES]
            rows += [_score(one, "corpus", before + name, 1_000.0) for name in COUNTS]
        rows += [_score(one, "corpus", "recall", share, decile) for decile in range(1, 11)]
    store.add("scores", rows)


def _score(one, scorer, metric, value, decile=0):
    return {
        "explanation_id": one.explanation_id,
        "protocol_id": content_id(scorer),
        "scorer": scorer,
        "metric": metric,
        "kind": "all",
        "decile": decile,
        "value": value,
        "low": value * 0.9,
        "high": value * 1.1,
        "n": 40,
        "n_positive": 20,
        "n_negative": 20,
        "n_missing": 0,
        "null_value": value / 2,
        "p_value": 0.01,
        "q_value": 0.02,
    }


def _judged(store, index, text, latents, rng):
    examples = example_rows(index.sample(latents, PLAN, 0), index, text, HOOKPOINT)
    examples = examples.filter(np.array(examples["split"]) == "score")
    # A run keeps tokens; the text is found from them.
    at = examples.schema.get_field_index("text")
    store.add("examples", examples.set_column(at, "text", [[None] * len(examples)]))
    owners = np.array(examples["latent"])
    names, truths = (examples[name].to_pylist() for name in ("example_id", "activating"))
    for latent in latents.tolist():
        mine = np.flatnonzero(owners == latent).tolist()
        texts = [f"words that have to do with w{word}" for word in rng.integers(0, 9_999, 2)]
        said = [
            Explanation.of(HOOKPOINT, latent, name, words * 3)
            for name, words in zip((JUDGE, NULL + JUDGE), texts, strict=True)
        ]
        store.add("explanations", said)
        verdicts, scores = [], []
        for one in said:
            for scorer in ("detection", "fuzzing"):
                verdicts += [
                    Verdict(
                        explanation_id=one.explanation_id,
                        protocol_id=content_id(scorer),
                        scorer=scorer,
                        example_id=names[row],
                        prompt_id=content_id(one.explanation_id, scorer, place // 5),
                        slot=place % 5,
                        marks=(3, 4) if scorer == "fuzzing" else None,
                        truth=truths[row],
                        answer=bool(rng.random() < (0.8 if truths[row] else 0.2)),
                        p_yes=float(rng.random()),
                    )
                    for place, row in enumerate(mine)
                ]
                value = float(rng.random())
                for name in ("accuracy", "recall"):
                    scores += [_score(one, scorer, name, value, decile) for decile in range(11)]
                others = ("balanced_accuracy", "specificity", "sampled_f1", "sampled_recall")
                scores += [_score(one, scorer, name, value) for name in others]
        store.add("verdicts", verdicts)
        store.add("scores", scores)


def shape_of(world):
    """The shape in words, with what the tables hold."""
    shape = synthetic.Shape(**json.loads((world.data / "shape.json").read_text()))
    return f"{shape} judged={world.folder.name.removeprefix('exports-')}"
