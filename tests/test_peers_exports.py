"""What is written for others is read by their own code, and what they write by ours."""

from __future__ import annotations

import collections
import json
import shutil

import numpy as np
import pytest

from exported_world import ExportedRun
from glossator.export import (
    NeuronpediaSource,
    export_circuit_tracer,
    export_delphi,
    export_neuronpedia,
    export_saebench,
    read_feature,
)
from glossator.export.upload import payloads
from glossator.imports import import_delphi
from glossator.index import Index
from hub_server import HubServer
from peer_runs import ROOT, read_by
from planted import HOOKPOINT, WINDOW, PlantedJudge, erring

pytestmark = pytest.mark.peer
SOURCE = NeuronpediaSource(model="gpt2-small", layer=5, source_set="res-mine", release="mine")
EXPLAINED = (0, 3, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    # A judge that errs, so that no figure is 1.
    judge = PlantedJudge(erring({decile: 0.5 + decile / 25 for decile in range(11)}, 0.7))
    run = ExportedRun(tmp_path_factory.mktemp("exported"), judge)
    yield run
    run.store.close()


def _figures(run, metric):
    """Of scorer and latent."""
    owners = {row["explanation_id"]: row["latent"] for row in run.table("explanations").to_pylist()}
    return {
        (row["scorer"], owners[row["explanation_id"]]): row["value"]
        for row in run.table("scores").to_pylist()
        if (row["kind"], row["decile"], row["metric"]) == ("all", 0, metric)
    }


# --- delphi ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def delphi(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("delphi")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glossator.export.delphi._MOST", 700)  # several shards
        export_delphi(run, folder / "results", model_name="gpt2")
    assert len(list((folder / "results/latents" / HOOKPOINT).glob("*.safetensors"))) > 1
    run.text.tokenizer.save(str(folder / "tokenizer.json"))
    return read_by(
        "delphi", "read_delphi.py", folder / "results", HOOKPOINT, folder / "tokenizer.json"
    )


def test_delphi_finds_each_latents_windows_with_their_words_and_strengths(run, delphi):
    assert delphi["tokens"] == [run.index.n_contexts, run.index.context_length]
    records = {one["latent"]: one for one in delphi["records"]}
    n_tokens = run.index.n_contexts * run.index.context_length
    counts = run.index.counts()
    assert set(records) == set(np.flatnonzero(counts).tolist())
    for latent, record in records.items():
        assert record["frequency"] == pytest.approx(counts[latent] / n_tokens)
        assert record["windows"] == run.index.summary()["windows"][latent]
        assert len(record["test"]) == 20
        strengths = sorted(run.index.postings(latent)[1].astype(np.float16).tolist())
        for quantile, words, values in record["test"]:
            said = "".join(words).split()
            assert len(said) == len(values) == WINDOW
            # Its quantile 0 is our decile 10.
            peak = int(np.argmax(values))
            assert said[peak] == f"hit{latent}d{10 - quantile}"
            assert values[peak] in strengths
            assert said[peak + 1 : peak + 3] == [f"by{latent}", f"far{latent}"]
        assert len(record["not_active"]) == 10
        assert not any(f"hit{latent}d" in text for text, _ in record["not_active"])


def test_delphi_takes_hard_negatives_from_the_exported_neighbours(run, delphi):
    for record in delphi["hard"]:
        latent = record["latent"]
        near = {
            float(np.float32(cosine)): other
            for cosine, other in zip(
                run.neighbours.cosines[latent].tolist(),
                run.neighbours.ids[latent].tolist(),
                strict=True,
            )
        }
        assert record["not_active"]
        for text, distance in record["not_active"]:
            other = near[float(np.float32(-distance))]
            assert f"hit{other}d" in text
            assert f"hit{latent}d" not in text


def test_delphi_reads_explanations_and_its_figures_of_our_verdicts_are_ours(run, delphi):
    said = dict(map(tuple, delphi["explanations"]))
    assert {k: v for k, v in said.items() if k in EXPLAINED} == {
        latent: f"latent {latent}" for latent in EXPLAINED
    }
    assert {v for k, v in said.items() if k not in EXPLAINED} == {"No explanation found"}
    names = {"fuzz": "fuzzing", "detection": "detection"}
    found = {(names[scorer], latent): row for scorer, latent, row in delphi["scores"]}
    assert set(found) == {(scorer, latent) for scorer in names.values() for latent in EXPLAINED}
    # What delphi calls accuracy is balanced.
    for theirs, ours in (("accuracy", "balanced_accuracy"), ("recall", "recall")):
        figures = _figures(run, ours)
        for key, row in found.items():
            assert row[theirs] == pytest.approx(figures[key]), (key, ours)
    assert all(0.5 < row["accuracy"] < 1 for row in found.values()), "nothing was judged wrongly"


def test_a_cache_that_delphi_wrote_becomes_an_index_of_the_same_activations(tmp_path):
    given = read_by("delphi", "write_delphi.py", tmp_path / "results", "layers.5")
    out = import_delphi(tmp_path / "results", tmp_path / "taken", hookpoint="layers.5")
    index = Index.open(out / "index")
    tokens = np.array(given["tokens"])
    assert (index.contexts(np.arange(len(tokens), dtype=np.uint64))[0] == tokens).all()
    wanted = collections.defaultdict(list)
    for latent, row, position, strength in given["postings"]:
        wanted[latent].append((row * tokens.shape[1] + position, strength))
    assert index.nnz == len(given["postings"])
    assert 3 not in wanted
    for latent in range(index.n_latents):
        where, strengths = index.postings(latent)
        assert where.tolist() == [place for place, _ in wanted[latent]]
        assert strengths == pytest.approx([value for _, value in wanted[latent]], rel=1 / 15)


# --- the others --------------------------------------------------------------------------------


def test_saebench_reads_its_result(run, tmp_path):
    (tmp_path / "autointerp").mkdir()
    path = tmp_path / "autointerp" / "mine_eval_results.json"
    export_saebench(run, path, model_name="gpt2", release="mine")
    said = read_by("sae-bench", "read_saebench.py", path)
    accuracy = [_figures(run, "accuracy")["detection", latent] for latent in EXPLAINED]
    assert said["metrics"]["autointerp_score"] == pytest.approx(np.mean(accuracy))
    assert said["metrics"]["autointerp_std_dev"] == pytest.approx(np.std(accuracy, ddof=1))
    assert 0.5 < np.mean(accuracy) < 1
    assert (said["latents"], said["n_latents"]) == (list(EXPLAINED), 3)
    assert said["sae_id"] == HOOKPOINT
    assert said["read"]["autointerp_score"] == said["metrics"]["autointerp_score"]


def test_circuit_tracers_model_and_its_viewer_read_every_feature(run, tmp_path):
    out = export_circuit_tracer(run, tmp_path / "scan" / "features", layer=5)
    latents = range(run.index.n_latents)
    records = {str(latent): read_feature(out, 5, latent) for latent in latents}
    (tmp_path / "records.json").write_text(json.dumps(records))
    for name, model in read_by(
        "circuit-tracer", "read_circuit_tracer.py", tmp_path / "records.json"
    ).items():
        known = {key: value for key, value in records[name].items() if key in model}
        assert model == known
    if shutil.which("node") is None:
        pytest.fail("circuit-tracer's viewer is JavaScript: install node to run its code")
    assets = ROOT / ".peers/circuit-tracer/circuit_tracer/frontend/assets"
    with HubServer({"owner/scan": tmp_path / "scan"}) as hub:
        shown = read_by(
            "circuit-tracer", "read_features.mjs", assets, hub.url, "owner/scan", 5, *latents
        )
    for name, record in records.items():
        seen = {key: value for key, value in shown[name].items() if key in record}
        assert seen == record
    assert shown["3"]["clerp"] == "latent 3"


def test_neuronpedias_client_reads_the_tree_and_sends_the_same_calls(run, tmp_path):
    tree = export_neuronpedia(run, tmp_path / "tree", SOURCE)
    named = SOURCE.model_copy(update={"method": "eleuther_acts_top20"})
    bodies = list(payloads(run, named, size=2))
    (tmp_path / "bodies.json").write_text(json.dumps(bodies))
    said = read_by("neuronpedia", "read_neuronpedia.py", tree, tmp_path / "bodies.json")
    assert [(one["index"], one["text"]) for one in said["explanations"]] == [
        (latent, f"latent {latent}") for latent in EXPLAINED
    ]
    assert {one["source"] for one in said["explanations"]} == {SOURCE.source}
    assert {one["index"] for one in said["activations"]} == set(EXPLAINED)
    for one in said["activations"]:
        peak = max(one["values"])
        assert one["tokens"][one["values"].index(peak)].strip().startswith(f"hit{one['index']}d")
        assert one["quantileMin"] <= peak * (1 + 1 / 16)
    owners = {row["explanation_id"]: row["latent"] for row in run.table("explanations").to_pylist()}
    mine = [
        (row["truth"], row["answer"])
        for row in run.table("verdicts").to_pylist()
        if row["scorer"] in ("detection", "fuzzing") and owners[row["explanation_id"]] in EXPLAINED
    ]
    theirs = [(one["ground_truth"], one["prediction"]) for one in said["judged"]]
    assert sorted(theirs) == sorted(mine)
    assert all(
        one["correct"] == (one["ground_truth"] == one["prediction"]) for one in said["judged"]
    )
    assert said["uri"] == ["upload-batch"] * len(bodies)
    assert _without_nulls(said["bodies"]) == _without_nulls(bodies)


def _without_nulls(value):
    """A client sends null for what a call may leave out."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
