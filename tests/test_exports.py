# ruff: noqa: N815 - the fields are named as the others name them
"""What is written for other tools: by their schemas, whole or not at all, and nothing unasked."""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ConfigDict, Field

from exported_world import LATENTS, ExportedRun
from glossator.errors import InputError
from glossator.export import (
    Chosen,
    NeuronpediaSource,
    add_layer,
    export_circuit_tracer,
    export_dataset,
    export_neuronpedia,
    export_notes,
    export_saebench,
    read_feature,
)
from glossator.export.circuit_tracer import feature_id
from glossator.imports import import_neuronpedia
from glossator.score import scores_from
from planted import HOOKPOINT

SOURCE = NeuronpediaSource(model="gpt2-small", layer=5, source_set="res-mine", release="mine")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


# The columns of Neuronpedia's prisma schema that have no default, and those written beside them.


class Neuron(Strict):
    modelId: str
    layer: str
    index: str = Field(pattern=r"^\d+$")
    creatorId: str
    sourceSetName: str
    maxActApprox: float
    hasVector: bool
    vector: list[float]
    topkCosSimIndices: list[int]
    topkCosSimValues: list[float]
    pos_str: list[str]
    pos_values: list[float]
    neg_str: list[str]
    neg_values: list[float]
    frac_nonzero: float
    freq_hist_data_bar_heights: list[int]
    freq_hist_data_bar_values: list[float]


class Activation(Strict):
    id: str = Field(pattern=r"^c[0-9a-z]{24}$")
    modelId: str
    layer: str
    index: str
    tokens: list[str]
    values: list[float]
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    binMin: float
    binMax: float
    binContains: float
    qualifyingTokenIndex: int
    creatorId: str
    dataSource: str | None
    dataIndex: str | None
    dfaValues: list[float]
    lossValues: list[float]


class NeuronpediaExplanation(Strict):
    id: str = Field(pattern=r"^c[0-9a-z]{24}$")
    modelId: str
    layer: str
    index: str
    description: str
    authorId: str
    typeName: str | None
    explanationModelName: str | None
    notes: str | None


class ExplanationScore(Strict):
    id: str
    value: float
    explanationId: str
    explanationScoreTypeName: str
    explanationScoreModelName: str
    initiatedByUserId: str
    jsonDetails: str


# circuit-tracer's `feature_models.py`, which passes over what it does not know.


class FeatureExample(BaseModel):
    tokens_acts_list: list[float]
    train_token_ind: int
    is_repeated_datapoint: bool
    tokens: list[str]


class FeatureQuantile(BaseModel):
    quantile_name: str
    examples: list[FeatureExample]


class Feature(BaseModel):
    transcoder_id: str
    index: int
    examples_quantiles: list[FeatureQuantile]
    top_logits: list[str]
    bottom_logits: list[str]
    act_min: float
    act_max: float
    quantile_values: list[float]
    histogram: list[float]
    activation_frequency: float


# SAEBench's `eval_output_schema_autointerp.json`: what it requires.


class Saebench(Strict):
    eval_type_id: str = Field(pattern="^autointerp$")
    eval_config: dict
    eval_id: str
    datetime_epoch_millis: int = Field(ge=0, le=9999999999999)
    eval_result_metrics: dict[str, dict[str, float]]
    eval_result_details: list
    sae_bench_commit_hash: str
    sae_lens_id: str | None
    sae_lens_release_id: str | None
    sae_lens_version: str | None
    sae_cfg_dict: dict | None
    eval_result_unstructured: dict


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = ExportedRun(tmp_path_factory.mktemp("exported"))
    yield run
    run.store.close()


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_only_live_latents_with_an_explanation_are_taken_unless_asked(run):
    assert Chosen.of(run).latents.tolist() == [0, 3, 4]
    assert Chosen.of(run).left_out == {"dead": 2, "rare": 1, "dense": 1, "unexplained": 1}
    everything = Chosen.of(run, include=("rare", "dense", "unexplained"))
    assert everything.latents.tolist() == list(range(LATENTS))
    with pytest.raises(InputError, match=r"left out are 1 rare.*--include"):
        Chosen.of(run, [1])
    with pytest.raises(InputError, match="include: `dead` is unknown"):
        Chosen.of(run, include=("dead",))
    with pytest.raises(InputError, match="latent 99: the run has 8"):
        Chosen.of(run, [99])
    with pytest.raises(InputError, match="explainer `x`: has none here; known are planted"):
        Chosen.of(run, explainer="x")


def test_neuronpedias_tree_has_its_columns_and_the_runs_values(run, tmp_path):
    folder = export_neuronpedia(run, tmp_path / "tree", SOURCE)
    assert folder == tmp_path / "tree" / "gpt2-small" / "5-res-mine"
    features = [Neuron(**row) for row in lines(folder / "features" / "batch-0.jsonl.gz")]
    assert [int(one.index) for one in features] == [0, 3, 4]
    for one in features:
        latent = int(one.index)
        assert one.topkCosSimIndices == run.neighbours.ids[latent].tolist()
        assert one.topkCosSimValues == pytest.approx(run.neighbours.cosines[latent].tolist())
        assert one.frac_nonzero == run.index.counts()[latent] / run.index.n_tokens
        _, activations = run.index.postings(latent)
        heights, edges = np.histogram(activations, 50, (0, one.maxActApprox))
        assert one.freq_hist_data_bar_heights == heights.tolist()
        middles = (edges[1:] + edges[:-1]) / 2
        assert one.freq_hist_data_bar_values == pytest.approx(middles.tolist(), rel=1e-3)
        assert (one.pos_str, one.pos_values) == ([" word1", " word2"], [2.5, 1.0])
    rows = [Activation(**row) for row in lines(folder / "activations" / "batch-0.jsonl.gz")]
    assert len({row.id for row in rows}) == len(rows)
    deciles = run.index.deciles()
    for row in rows:
        latent = int(row.index)
        assert row.maxValue == max(row.values) == row.values[row.maxValueTokenIndex] > 0
        start = np.array([int(row.dataIndex)], np.uint64)
        found = run.index.activations(latent, start, len(row.values))[0]
        assert found.tolist() == row.values
        peak = row.tokens[row.maxValueTokenIndex].strip()
        decile = int(re.fullmatch(rf"hit{latent}d(\d+)", peak)[1])
        if row.binContains < 0:
            assert (row.binMin, row.binMax, row.binContains) == (-1, -1, -1)
        else:
            fifth = (decile - 1) // 2
            assert row.binMin == pytest.approx(deciles[latent, 2 * fifth], rel=1e-6)
            assert row.binMin <= row.maxValue * (1 + 1 / 16)
            assert row.maxValue <= row.binMax * (1 + 1 / 16)
    said = [NeuronpediaExplanation(**r) for r in lines(folder / "explanations/batch-0.jsonl.gz")]
    assert [one.description for one in said] == ["latent 0", "latent 3", "latent 4"]
    scores = [ExplanationScore(**r) for r in lines(folder / "scores/batch-0.jsonl.gz")]
    assert {one.explanationId for one in scores} == {one.id for one in said}
    assert len({one.id for one in scores}) == len(scores) == 2 * len(said)
    kinds = {one.explanationScoreTypeName for one in scores}
    assert kinds == {"eleuther_recall", "eleuther_fuzz"}
    for one in scores:
        details = json.loads(one.jsonDetails)
        right = [d["correct"] for d in details]
        assert details
        assert all(d["correct"] == (d["prediction"] == d["ground_truth"]) for d in details)
        assert 0 < sum(right) <= len(right)
    for name in ("release", "model", "sourceset", "source"):
        (line,) = (folder / f"{name}.jsonl").read_text().splitlines()
        assert json.loads(line)["creatorId"] == SOURCE.creator_id


def test_the_same_run_gives_the_same_bytes_and_batches_begin_together(run, tmp_path, monkeypatch):
    monkeypatch.setattr("glossator.export.neuronpedia._ROWS", 2)
    trees = [export_neuronpedia(run, tmp_path / name, SOURCE) for name in "ab"]
    files = [
        {p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()}
        for tree in trees
    ]
    assert files[0] == files[1]
    for kind in ("features", "activations", "explanations"):
        owners = [
            {row["index"] for row in lines(trees[0] / kind / f"batch-{i}.jsonl.gz")} for i in (0, 1)
        ]
        assert owners == [{"0", "3"}, {"4"}]


def test_nothing_is_left_of_an_export_that_fails(run, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glossator.export.neuronpedia._activations", fails)
    with pytest.raises(InputError, match="No space left"):
        export_neuronpedia(run, tmp_path / "tree", SOURCE)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    for export in (
        lambda out: export_neuronpedia(run, out, SOURCE),
        lambda out: export_dataset(run, out),
        lambda out: export_circuit_tracer(run, out, layer=5),
    ):
        with pytest.raises(InputError, match="is there already; name a new folder"):
            export(tmp_path / "there")


def test_neuronpedias_explanations_come_back_as_a_file_that_the_explainer_reads(run, tmp_path):
    from glossator.explain import read_explanations

    tree = export_neuronpedia(run, tmp_path / "tree", SOURCE)
    assert import_neuronpedia(tree, tmp_path / "labels.jsonl", hookpoint=HOOKPOINT) == 3
    found = read_explanations(tmp_path / "labels.jsonl", HOOKPOINT, run.index.n_latents)
    assert [(one.latent, one.text, one.explainer) for one in found] == [
        (latent, f"latent {latent}", "file:neuronpedia") for latent in (0, 3, 4)
    ]


def test_a_damaged_export_is_refused_by_file_and_line(tmp_path):
    out = tmp_path / "o.jsonl"
    with pytest.raises(InputError, match="no `explanations/batch"):
        import_neuronpedia(tmp_path, out)
    (tmp_path / "a.jsonl").write_text('{"index": "3", "description": "x"}\n{"index": "y"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl: line 2: no explanation"):
        import_neuronpedia(tmp_path / "a.jsonl", out)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"index": "3"}')[:-9])
    with pytest.raises(InputError, match=r"b\.jsonl\.gz: cannot be read"):
        import_neuronpedia(tmp_path / "b.jsonl.gz", out)
    (tmp_path / "c.json").write_text("[1]")
    with pytest.raises(InputError, match=r"c\.json: line 1: not a JSON object"):
        import_neuronpedia(tmp_path / "c.json", out)
    assert not out.exists()


def test_feature_files_hold_every_latent_where_the_index_says(run, tmp_path):
    out = export_circuit_tracer(run, tmp_path / "features", layer=5)
    index = json.loads(gzip.decompress((out / "index.json.gz").read_bytes()))
    offsets = index["5"]["offsets"]
    assert len(offsets) == run.index.n_latents + 1
    assert offsets[-1] == (out / index["5"]["filename"]).stat().st_size
    for latent in range(run.index.n_latents):
        feature = Feature.model_validate(read_feature(out, 5, latent), strict=True)
        assert feature.index == latent
        shown = [e for q in feature.examples_quantiles for e in q.examples]
        assert bool(shown) == (latent in (0, 3, 4))
        # Also of those that are not exported: a viewer must not take a dense one for a silent one.
        share = run.index.counts()[latent] / run.index.n_tokens
        assert feature.activation_frequency == pytest.approx(share)
        assert feature.act_max == run.index.summary()["max_activation"][latent]
        for one in shown:
            assert len(one.tokens) == len(one.tokens_acts_list)
            assert one.tokens[one.train_token_ind].strip().startswith(f"hit{latent}d")
        if shown:
            assert sum(feature.histogram) == run.index.summary()["windows"][latent]
            top, *rest = feature.examples_quantiles
            assert top.quantile_name == "Top activations"
            for quantile in rest:
                decile = quantile.quantile_name.removeprefix("Decile ")
                peaks = {e.tokens[e.train_token_ind].strip() for e in quantile.examples}
                assert peaks == {f"hit{latent}d{decile}"}
    before = (out / "layer_5.bin").read_bytes()
    add_layer(out, run, layer=6, name="another")
    assert (out / "layer_5.bin").read_bytes() == before
    assert read_feature(out, 6, 3)["transcoder_id"] == "another"
    with pytest.raises(InputError, match="has layer 6 already"):
        add_layer(out, run, layer=6)
    with pytest.raises(InputError, match="has no layer 7"):
        read_feature(out, 7, 0)
    (out / "layer_5.bin").write_bytes(b"\0" * len(before))
    with pytest.raises(InputError, match="latent 0 of layer 5 is damaged"):
        read_feature(out, 5, 0)


def test_numbers_of_features_are_all_different():
    ids = {feature_id(layer, latent) for layer in range(30) for latent in range(200)}
    assert len(ids) == 30 * 200
    assert feature_id(2, 3) == 18  # (5 · 6) / 2 + 3


def test_the_dataset_folder_is_loaded_by_the_library(run, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    out = export_dataset(run, tmp_path / "labels", title='Say "so"', licence="mit")
    loaded = {
        name: datasets.load_dataset(str(out), name, cache_dir=str(tmp_path / "c"))["train"]
        for name in ("latents", "verdicts", "protocols")
    }
    assert loaded["latents"]["latent"][:] == [0, 3, 4]
    for row in loaded["latents"]:
        assert row["explanation"] == f"latent {row['latent']}"
        assert row["scorer"] == "detection"
        assert row["score"] == next(
            s["value"]
            for e in row["explanations"]
            for s in e["scores"]
            if (s["scorer"], s["metric"]) == ("detection", "balanced_accuracy")
        )
        assert [n["latent"] for n in row["neighbours"]] == run.neighbours.ids[
            row["latent"]
        ].tolist()
    verdicts = run.scored.verdicts.to_pylist()
    said = {row["explanation_id"] for row in loaded["verdicts"]}
    assert len(loaded["verdicts"]) == sum(v["explanation_id"] in said for v in verdicts)
    assert {row["latent"] for row in loaded["verdicts"]} == {0, 3, 4}
    for row in loaded["verdicts"]:
        assert row["truth"] == (row["decile"] > 0) or row["scorer"] == "fuzzing"
    assert loaded["protocols"]["judge"][:] == [run.scored.protocol.judge]
    assert set(loaded["verdicts"]["protocol_id"]) == set(loaded["protocols"]["protocol_id"])
    assert "Left out: 2 dead, 1 dense, 1 rare, 1 unexplained" in (out / "README.md").read_text()


def test_scores_can_be_computed_again_from_the_dataset_alone(run, tmp_path):
    out = export_dataset(run, tmp_path / "labels")
    verdicts = pq.read_table(out / "data" / "verdicts.parquet")
    examples = verdicts.select(["example_id", "decile", "kind", "document"])
    protocols = {
        row["protocol_id"]: json.loads(row["parameters"])
        for row in pq.read_table(out / "data" / "protocols.parquet").to_pylist()
    }
    once = examples.group_by(examples.column_names).aggregate([])
    again = scores_from(verdicts, once, protocols=protocols)
    metrics = ("balanced_accuracy", "accuracy", "recall")  # of no firing rate

    def figures(rows):
        return {
            (row["scorer"], row["metric"], row["kind"], row["decile"]): (row["value"], row["low"])
            for row in rows
            if row["metric"] in metrics
        }

    of_each = {}
    for row in again.to_pylist():
        of_each.setdefault(row["explanation_id"], []).append(row)
    assert len(of_each) == 3
    for explanation_id, rows in of_each.items():
        stored = run.store.table("scores", "explanation_id = ?", (explanation_id,))
        assert figures(rows) == figures(stored.to_pylist())
        assert len(figures(rows)) > 20


def test_a_circuits_notes_are_found_by_name(run, tmp_path):
    path = export_notes(run, tmp_path / "notes.jsonl", prefix="resid_5")
    notes = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        notes[row["Name"]] = row["Annotation"]
        assert row["score"] > 0.5
    assert notes == {f"resid_5/{i}": f"latent {i}" for i in (0, 3, 4)}


def test_saebenchs_score_is_the_mean_accuracy_of_detection(run, tmp_path):
    path = export_saebench(run, tmp_path / "r.json", model_name="gpt2", release="mine")
    result = Saebench(**json.loads(path.read_text()))
    accuracy = {}
    owners = {r["explanation_id"]: r["latent"] for r in run.table("explanations").to_pylist()}
    for row in run.table("verdicts").to_pylist():
        if row["scorer"] == "detection" and row["answer"] is not None:
            right = row["answer"] == row["truth"]
            accuracy.setdefault(owners[row["explanation_id"]], []).append(right)
    means = [np.mean(accuracy[latent]) for latent in (0, 3, 4)]
    found = result.eval_result_metrics["autointerp"]
    assert found["autointerp_score"] == pytest.approx(np.mean(means))
    assert found["autointerp_std_dev"] == pytest.approx(np.std(means, ddof=1))
    with pytest.raises(InputError, match="1 latents have an accuracy by detection"):
        export_saebench(run, path, model_name="gpt2", chosen=Chosen.of(run, [0]))
