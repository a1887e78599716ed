"""delphi's folders, there and back: activations, explanations, and scores made anew."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from exported_world import LATENTS, ExportedRun
from glossator.errors import InputError
from glossator.export import export_delphi
from glossator.imports import import_delphi, read_delphi_explanations
from glossator.index import Index
from planted import HOOKPOINT

METRICS = ("balanced_accuracy", "accuracy", "recall")  # of no firing rate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = ExportedRun(tmp_path_factory.mktemp("exported"))
    yield run
    run.store.close()


@pytest.fixture
def folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr("glossator.export.delphi._MOST", 700)  # several shards
    return export_delphi(run, tmp_path / "results", model_name="gpt2")


def test_a_cache_is_read_by_safetensors_and_holds_every_activation(run, folder):
    cache = folder / "latents" / HOOKPOINT
    found = {}
    shards = sorted(cache.glob("*.safetensors"), key=lambda path: int(path.stem.split("_")[0]))
    assert len(shards) > 1
    for path in shards:
        first = int(path.stem.split("_")[0])
        shard = load_file(path)
        assert shard["locations"].dtype == np.uint16
        assert shard["activations"].dtype == np.float16
        ids = np.arange(run.index.n_contexts, dtype=np.uint64)
        assert np.array_equal(shard["tokens"], run.index.contexts(ids)[0])
        rows = shard["locations"].astype(np.int64)
        assert np.array_equal(rows, rows[np.lexsort(rows.T[::-1])])
        for (row, column, latent), value in zip(rows, shard["activations"], strict=True):
            found.setdefault(first + latent, []).append((row * 64 + column, value))
    for latent in range(run.index.n_latents):
        where, values = run.index.postings(latent)
        assert [p for p, _ in found.get(latent, [])] == where.tolist()
        assert [v for _, v in found.get(latent, [])] == values.astype(np.float16).tolist()
    config = json.loads((cache / "config.json").read_text())
    assert (config["cache_ctx_len"], config["model_name"]) == (64, "gpt2")
    near = json.loads((folder / "neighbours" / f"{HOOKPOINT}-decoder_similarity.json").read_text())
    assert [other for _, other in near["3"]] == run.neighbours.ids[3].tolist()


@pytest.mark.parametrize("at_once", [1, 64])
def test_what_is_exported_comes_back_with_the_same_figures(
    run, folder, tmp_path, monkeypatch, at_once
):
    monkeypatch.setattr("glossator.imports.delphi._AT_ONCE", at_once)
    monkeypatch.setattr("glossator.imports.shards._POSTINGS", 50 * at_once)
    out = import_delphi(folder, tmp_path / "back", hookpoint=HOOKPOINT, n_latents=8)
    index = Index.open(out / "index")
    for latent in range(LATENTS):
        (was, strengths), (where, values) = run.index.postings(latent), index.postings(latent)
        assert np.array_equal(where, was)
        assert values == pytest.approx(strengths, rel=1 / 15)
    rows = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    assert [(row["latent"], row["text"]) for row in rows] == [(i, f"latent {i}") for i in (0, 3, 4)]
    mine = {one.explanation_id: one.latent for one in read_delphi_explanations(folder, HOOKPOINT)}
    theirs = {r["explanation_id"]: r["latent"] for r in run.table("explanations").to_pylist()}
    figures = []
    for owners, table in (
        (mine, pq.read_table(out / "scores.parquet")),
        (theirs, run.table("scores")),
    ):
        rows = (row for row in table.to_pylist() if row["kind"] == "all" and not row["decile"])
        figures.append(
            {
                (owners[row["explanation_id"]], row["scorer"], row["metric"]): row["value"]
                for row in rows
                if owners[row["explanation_id"]] in (0, 3, 4) and row["metric"] in METRICS
            }
        )
    assert figures[0] == figures[1]
    assert len(figures[0]) == 18


def test_a_null_is_missing_and_a_hookpoint_is_no_prefix(tmp_path):
    folder = tmp_path / "results"
    (folder / "explanations").mkdir(parents=True)
    (folder / "scores" / "detection").mkdir(parents=True)
    for name, text in (
        ("layers.1_latent4", "one"),
        ("layers.10_latent4", "ten"),
        ("layers.1_latent5", "Explanation could not be parsed."),
    ):
        (folder / "explanations" / f"{name}.txt").write_text(json.dumps(text))
    entry = {"str_tokens": ["a", "b"], "activations": [0.0, 1.0], "probability": None}
    rows = [
        entry | {"activating": True, "distance": 0, "prediction": None, "correct": None},
        entry | {"activating": True, "distance": 9, "prediction": True, "correct": True},
        entry | {"activating": False, "distance": -1.0, "prediction": False, "correct": True},
    ]
    path = folder / "scores" / "detection" / "layers.1_latent4.txt"
    path.write_text(json.dumps(rows))
    assert [e.text for e in read_delphi_explanations(folder, "layers.1")] == ["one"]
    out = import_delphi(folder, tmp_path / "out", hookpoint="layers.1")
    assert not (out / "index").exists()
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    (row,) = [r for r in scores if (r["metric"], r["kind"], r["decile"]) == ("accuracy", "all", 0)]
    assert row["n_missing"] == 1
    path.write_text(json.dumps([{**rows[0], "distance": 10}]))
    with pytest.raises(InputError, match=r"latent4\.txt: entry 0: no verdict.*no quantile"):
        import_delphi(folder, tmp_path / "other", hookpoint="layers.1")
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match=r"holds nothing of hookpoint `layers\.2`"):
        import_delphi(folder, tmp_path / "other", hookpoint="layers.2")


def test_damaged_shards_are_refused_by_name(tmp_path):
    cache = tmp_path / "results" / "latents" / "h"
    cache.mkdir(parents=True)
    good = {
        "locations": np.array([[0, 1, 0], [1, 2, 1]], np.uint16),
        "activations": np.array([1, 2], np.float16),
        "tokens": np.ones((2, 64), np.int64),
    }
    path = cache / "0_1.safetensors"

    def refused(match, raw=None, **changed):
        save_file({k: v for k, v in (good | changed).items() if v is not None}, path)
        if raw is not None:
            path.write_bytes(raw(path.read_bytes()))
        with pytest.raises(InputError, match=match):
            import_delphi(tmp_path / "results", tmp_path / "out", hookpoint="h")
        assert not (tmp_path / "out").exists()

    refused("no sound safetensors", lambda raw: raw[:-3])
    refused("a header of", lambda raw: (2**40).to_bytes(8, "little") + raw[8:])
    refused("has no `tokens`", tokens=None)
    refused("2 activations at", locations=good["locations"][:1])
    refused("no number", activations=np.array([1, np.nan], np.float16))
    refused("negative", activations=np.array([1, -1], np.float16))
    refused("point outside", locations=np.array([[0, 1, 0], [1, 2, 9]], np.uint16))
    refused("order of rows", locations=np.array([[1, 1, 0], [0, 2, 1]], np.uint16))
    save_file(good, path)
    out = import_delphi(tmp_path / "results", tmp_path / "out", hookpoint="h")
    assert Index.open(out / "index").nnz == 2
