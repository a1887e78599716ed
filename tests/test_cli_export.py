"""The commands of `glossator export`: what each is given reaches the files that it writes."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest

from exported_world import ExportedRun
from glossator.cli import main
from glossator.export import read_feature


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = ExportedRun(tmp_path_factory.mktemp("exported"))
    yield run
    run.store.close()


@pytest.fixture
def export(run, tmp_path, monkeypatch, capsys):
    """Call a command on the run; its exit code and what it printed."""

    @contextmanager
    def opened(path):
        assert str(path) == "RUN"
        yield run

    run.path = tmp_path
    monkeypatch.setattr("glossator.cli_export.Run.open", opened)

    def called(name, *arguments):
        code = main(["export", name, "RUN", *map(str, arguments)])
        return code, capsys.readouterr()

    return called


NEURONPEDIA = ("--model", "gpt2-small", "--layer", 5, "--source-set", "res-mine")


def one(path):
    (line,) = path.read_text().splitlines()
    return json.loads(line)


def test_what_neuronpedia_is_to_say_of_a_source_stands_in_its_files(export, tmp_path):
    said = ("--suffix", "b", "--release", "mine", "--description", "Words", "--url", "http://x")
    whose = ("--creator", "Me", "--creator-id", "c1", "--n-layers", 12, "--dataset", "pile")
    code, done = export("neuronpedia", tmp_path / "tree", *NEURONPEDIA, *said, *whose)
    folder = tmp_path / "tree" / "gpt2-small" / "5-res-mine__b"
    assert (code, done.out) == (0, f"{folder}\n")
    assert one(folder / "model.jsonl")["layers"] == 12
    assert one(folder / "source.jsonl")["dataset"] == "pile"
    release, source_set = one(folder / "release.jsonl"), one(folder / "sourceset.jsonl")
    assert (release["name"], release["urls"], release["creatorId"]) == ("mine", ["http://x"], "c1")
    assert (source_set["creatorName"], source_set["description"]) == ("Me", "Words")


def test_a_dry_run_counts_what_would_be_sent_or_says_what_is_wrong(export, tmp_path):
    code, done = export("neuronpedia", *NEURONPEDIA, "--dry-run", "--latents", "3-4")
    assert (code, done.out) == (0, "2 latents would be sent to https://www.neuronpedia.org\n")
    known = ("--method", "mine", "--known-method", "mine")
    assert export("neuronpedia", *NEURONPEDIA, "--dry-run", *known)[0] == 0
    code, done = export("neuronpedia", *NEURONPEDIA, "--dry-run", "--method", "mine")
    assert code == 2
    assert done.out.startswith("method `mine`: not known there")
    code, done = export("neuronpedia", *NEURONPEDIA[:-1], "Upper", tmp_path / "tree")
    assert code == 2
    assert done.err.splitlines()[-1].startswith("glossator: --source-set: ")
    code, done = export("neuronpedia", *NEURONPEDIA)
    assert code == 2
    assert "name OUT, or give --dry-run or --upload" in done.err


def test_layers_are_added_to_feature_files_with_the_chosen_latents(export, tmp_path):
    out = tmp_path / "features"
    assert export("circuit-tracer", out, "--layer", 5)[0] == 0
    which = ("--include", "rare", "--include", "dense", "--length", 48)
    assert export("circuit-tracer", out, "--layer", 6, "--add", *which)[0] == 0
    shown = {
        layer: [bool(read_feature(out, layer, i)["examples_quantiles"]) for i in range(5)]
        for layer in (5, 6)
    }
    assert shown == {5: [True, False, False, True, True], 6: [True] * 5}
    (quantile, *_) = read_feature(out, 6, 3)["examples_quantiles"]
    assert {len(example["tokens"]) for example in quantile["examples"]} == {48}


def test_the_other_formats_are_written_where_they_are_to_be(export, tmp_path):
    for name, out, *options in (
        ("delphi", "results", "--model-name", "gpt2", "--no-cache", "--latents", "3"),
        ("dataset", "labels", "--title", "Mine", "--explainer", "planted"),
        ("notes", "notes.jsonl", "--prefix", "resid_5"),
        ("saebench", "result.json", "--model-name", "gpt2", "--dataset", "pile"),
    ):
        code, done = export(name, tmp_path / out, *options)
        assert (code, done.out) == (0, f"{tmp_path / out}\n")
    assert [path.name for path in (tmp_path / "results" / "explanations").iterdir()] == [
        "model.layers.5_latent3.txt"
    ]
    assert not (tmp_path / "results" / "latents").exists()
    assert pq.read_table(tmp_path / "labels" / "data" / "latents.parquet").num_rows == 3
    assert "# Mine" in (tmp_path / "labels" / "README.md").read_text()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["eval_config"]["dataset_name"] == "pile"
    code, done = export("dataset", tmp_path / "labels")
    assert code == 2
    assert "is there already" in done.err
