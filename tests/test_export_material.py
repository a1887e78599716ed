"""What exports share: which explanation is the best, texts of tokens, folders that are whole."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from byte_texts import byte_index
from exported_world import ExportedRun
from glossator.errors import InputError
from glossator.export import Chosen, export_dataset, export_notes
from glossator.export import chosen as chosen_module
from glossator.export.chosen import Said
from glossator.export.material import pages
from glossator.export.places import new_tree
from glossator.records import Explanation, table_of
from glossator.store import Store
from glossator.triage import triage
from planted import HOOKPOINT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = ExportedRun(tmp_path_factory.mktemp("exported"))
    yield run
    run.store.close()


def said(name, **figures):
    rows = [
        {"scorer": scorer, "metric": metric, "value": value}
        for scorer, metrics in figures.items()
        for metric, value in metrics.items()
    ]
    return Said(name, name, name, None, tuple(rows))


def test_a_rule_that_the_corpus_scored_has_its_f1_for_a_figure():
    rule = said("rule", corpus={"precision": 0.9, "f1": 0.5, "tp": 7.0})
    assert rule.figure() == ("corpus", "f1", 0.5)
    judged = said("judged", corpus={"f1": 0.5}, detection={"balanced_accuracy": 0.7})
    assert judged.figure() == ("detection", "balanced_accuracy", 0.7)
    assert said("none", detection={"balanced_accuracy": None}).figure() is None


def test_explanations_are_ordered_by_figures_of_one_scorer():
    wanted = [
        said("first", detection={"balanced_accuracy": 0.8}, corpus={"f1": 0.1}),
        said("second", detection={"balanced_accuracy": 0.6}),
        said("third", fuzzing={"balanced_accuracy": 0.9}),
        said("fourth", corpus={"f1": 1.0}),
        said("fifth", corpus={"f1": 0.2}),
        said("sixth", embedding={"auroc": 0.9}),
        said("seventh"),
    ]
    assert sorted(random.Random(0).sample(wanted, len(wanted)), key=Said.place) == wanted


@pytest.mark.parametrize("size", [1, 2, 128])
def test_rows_are_the_same_in_batches_of_any_size(run, tmp_path, monkeypatch, size):
    whole = list(pages(run, Chosen.of(run)))
    monkeypatch.setattr(chosen_module, "BATCH", size)
    monkeypatch.setattr(chosen_module, "_AT_ONCE", size)
    assert list(pages(run, Chosen.of(run))) == whole
    assert [page.latent for page in whole] == [0, 3, 4]
    assert all(len(page.said) == 1 and page.facts["latent"] == page.latent for page in whole)


def test_promoted_tokens_are_shown_by_their_texts_and_parts_by_their_bytes(tmp_path):
    index, text = byte_index(tmp_path / "index", ["so é"] * 60, [(i, 1) for i in range(60)])

    class Run:
        hookpoint, neighbours = HOOKPOINT, None

    run = Run()
    run.index, run.text = index, text
    o, space, half = (text.tokenizer.encode(one).ids[0] for one in ("o", " ", "é"))
    logits = json.dumps([[o, 3.0], [space, 2.0], [half, 1.0]])
    with Store.open(tmp_path / "run") as run.store:
        facts = triage(index, min_windows=1, min_documents=1, dense=1)
        run.store.add("latents", table_of("latents", facts, hookpoint=HOOKPOINT, top_logits=logits))
        run.store.add("explanations", [Explanation.of(HOOKPOINT, 0, "human", "o")])
        (page,) = pages(run, Chosen.of(run))
    assert page.promoted == (("o", 3.0), (" ", 2.0), ("\\xc3", 1.0))
    assert page.suppressed == ()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from exported_world import ExportedRun
from glossator.export import NeuronpediaSource, export_neuronpedia, neuronpedia

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

neuronpedia._activations = killed
source = NeuronpediaSource(model="gpt2-small", layer=5, source_set="res-mine")
export_neuronpedia(ExportedRun(Path(sys.argv[2]) / "world"), Path(sys.argv[2]) / "tree", source)
"""


def test_a_killed_export_leaves_nothing_under_its_name_and_the_next_one_sweeps(run, tmp_path):
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLED, here, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "tree").exists()
    (left,) = tmp_path.glob(".tree.*")
    assert any(path.is_file() for path in left.rglob("*"))
    with new_tree(tmp_path / "tree"):
        pass  # what was left may be of a process that has just begun
    (tmp_path / "tree").rmdir()
    assert left.exists()
    os.utime(left, (0, 0))
    handle = os.open(left, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as a process does that is still writing
    export_dataset(run, tmp_path / "tree")
    assert left.exists()
    os.close(handle)
    (tmp_path / "tree").rename(tmp_path / "labels")
    export_dataset(run, tmp_path / "tree")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "tree", "world"]


def test_notes_that_fail_leave_those_that_were_there(run, tmp_path, monkeypatch):
    path = export_notes(run, tmp_path / "notes.jsonl", prefix="resid_5")
    before = path.read_bytes()
    monkeypatch.setattr(Said, "figure", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(InputError, match=r"notes\.jsonl: cannot be written"):
        export_notes(run, path, prefix="resid_6")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
