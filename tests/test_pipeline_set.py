"""Several hookpoints in one pass: each run is what it would be alone, and the model reads once."""

import json
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import glossator as gl
from glossator.coders import load_coder
from glossator.errors import InputError
from glossator.records import TABLES
from judge_servers import ChatServer
from tiny_runs import command, knowing, save_coder

LAYERS = ("model.layers.0", "model.layers.1")


@pytest.fixture(scope="module")
def coders(world, tmp_path_factory):
    """A folder with a coder for each layer: the second knows other words than the first."""
    folder = tmp_path_factory.mktemp("coders")
    first = load_coder(world.coder)
    for number, layer in enumerate(LAYERS):
        rows = torch.nn.functional.normalize(first.encoder_weight[: 14 - 3 * number], dim=1)
        save_coder(folder / layer, [14.0 * row for row in rows], hookpoint=layer)
    return folder


def data(world, coders, *layers):
    options = ("--subject", world.subject, "--dtype", "float32", "--corpus", world.corpus)
    return [*options, "--coder", coders, *(f"--hookpoint={layer}" for layer in layers)]


def scores(run):
    rows = run.table("scores").drop_columns(["protocol_id"]).to_pylist()
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


@pytest.fixture(scope="module")
def both(world, coders, tmp_path_factory):
    out = tmp_path_factory.mktemp("set") / "out"
    done = command("demo", *data(world, coders, *LAYERS), "--out", out)
    assert done.code == 0, done.err
    return done, out


def test_each_run_of_a_set_is_what_it_would_be_alone(world, coders, both, tmp_path):
    for layer in LAYERS:
        assert command("demo", *data(world, coders, layer), "--out", tmp_path / layer).code == 0
        with gl.Run.open(both[1] / layer) as one, gl.Run.open(tmp_path / layer) as alone:
            assert one.hookpoint == alone.hookpoint == layer
            # The indices differ in where their text lies, and what names the index by that.
            for name in ("latents", "explanations"):
                assert one.table(name) == alone.table(name)
            assert scores(one) == scores(alone)
            assert one.config.data() == alone.config.data()
            for latent in range(one.index.n_latents):
                for found, expected in zip(
                    one.index.postings(latent), alone.index.postings(latent), strict=True
                ):
                    np.testing.assert_array_equal(found, expected)
        for name in ("neighbours.parquet", "types.parquet"):
            a, b = (pq.read_table(at / layer / name).to_pylist() for at in (both[1], tmp_path))
            assert repr(a) == repr(b)  # some are NaN
        there = (both[1] / layer / "tokenizer.json").read_bytes()
        assert there == (tmp_path / layer / "tokenizer.json").read_bytes()
        assert (both[1] / layer / "atlas.html").is_file()


def test_the_model_reads_the_corpus_once_for_all_hookpoints(both):
    lines = [json.loads(line) for line in both[0].err.splitlines()]
    passes = [one for one in lines if one["stage"] == "harvest" and one.get("finished")]
    with gl.RunSet.open(both[1]) as runs:
        assert [run.hookpoint for run in runs] == list(LAYERS) == runs.names
        index = runs.runs[0].index
        assert [one["done"] for one in passes] == [index.n_contexts * index.context_length]
        # The text is on disk once, and the time of the pass is shared out.
        assert len(list(both[1].rglob("tokens*"))) == len(
            list((both[1] / "index" / "text").rglob("tokens*"))
        ) + len(list((both[1] / "contexts").glob("tokens*")))
        seconds = [run.stages()["harvest"]["seconds"] for run in runs]
        assert seconds[0] == pytest.approx(seconds[1], rel=0.05)


def test_commands_on_a_set_are_done_on_every_run_by_one_judge(both, tmp_path):
    out = shutil.copytree(both[1], tmp_path / "out", symlinks=True)
    inspected = command("inspect", out)
    assert inspected.code == 0
    for layer in LAYERS:
        assert f"{layer} " in inspected.words
    options = ("--max-latents", "2", "--preset", "post", "--null", "0", "--scorer", "detection")
    with ChatServer(knowing()) as server:
        where = ("--judge", server.url, "--judge-model", "known")
        done = command("explain", out, *where, "--max-latents", "2", "--explainer", "delimited")
        assert done.code == 0, done.err
        done = command("score", out, *where, *options)
    assert done.code == 0, done.err
    assert (out / "answers.db").is_file()
    with gl.RunSet.open(out) as runs:
        for run in runs:
            assert run.table("verdicts").num_rows > 0
            assert run.done("score")
    atlas = command("atlas", out)
    assert [line.endswith("atlas.html") for line in atlas.out.splitlines()] == [True, True]


def test_the_number_format_that_a_trial_finds_is_kept_by_the_set(world, coders, tmp_path):
    options = [one for one in data(world, coders, *LAYERS) if one not in ("--dtype", "float32")]
    for _ in range(2):
        assert command("harvest", *options, "--out", tmp_path / "out").code == 0
        found = gl.load_config(tmp_path / "out" / "config.toml").subject.dtype
        assert found in ("float32", "bfloat16")
        with gl.RunSet.open(tmp_path / "out") as runs:
            assert {run.config.subject.dtype for run in runs} == {found}


def test_the_types_of_all_hookpoints_are_a_table_and_a_plot(both):
    table = pq.read_table(both[1] / "types.parquet")
    assert set(table["hookpoint"].to_pylist()) == set(LAYERS)
    plot = (both[1] / "types.svg").read_text()
    told = command("types", both[1], "--json")
    assert told.code == 0, told.err
    rows = json.loads(told.out)
    with gl.RunSet.open(both[1]) as runs:
        for run in runs:
            assert run.hookpoint in plot
            counted = {
                row["type"]: row["latents"] for row in rows if row["hookpoint"] == run.hookpoint
            }
            assert counted == run.stages()["triage"]["types"]


def test_exports_read_a_run_of_a_set(both, tmp_path):
    run = both[1] / LAYERS[1]
    there = ("--model", "tiny", "--layer", "1", "--source-set", "res")
    for name, options in (
        ("tables", ()),
        ("delphi", ("--model-name", "t")),
        ("neuronpedia", there),
    ):
        done = command("export", name, run, tmp_path / name, *options)
        assert done.code == 0, done.err
        assert any(path.is_file() for path in (tmp_path / name).rglob("*"))


def test_a_set_that_was_broken_off_goes_on(world, coders, both, tmp_path):
    out = shutil.copytree(both[1], tmp_path / "out", symlinks=True)
    # As a process leaves it that is killed between the triage of the first run and the second.
    for name in ("run.db", "types.parquet", "atlas.html"):
        (out / LAYERS[1] / name).unlink()
    (out / "types.svg").unlink()
    done = command("demo", *data(world, coders, *LAYERS), "--out", out)
    assert done.code == 0, done.err
    with gl.Run.open(out / LAYERS[1]) as run, gl.Run.open(both[1] / LAYERS[1]) as before:
        assert all(run.table(name) == before.table(name) for name in TABLES)
    assert (out / "types.svg").read_bytes() == (both[1] / "types.svg").read_bytes()


def test_shards_of_several_hookpoints_are_joined(world, coders, both, tmp_path):
    parts = [tmp_path / f"part{number}" for number in range(2)]
    for number, part in enumerate(parts):
        options = (*data(world, coders, *LAYERS), "--out", part, "--shard", f"{number}/2")
        assert command("harvest", *options).code == 0
    done = command("join", *parts, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    for layer in LAYERS:
        with gl.Run.open(tmp_path / "out" / layer) as one, gl.Run.open(both[1] / layer) as whole:
            assert one.index.hash == whole.index.hash
            assert one.table("latents") == whole.table("latents")


def test_two_coders_of_one_hookpoint_have_runs_named_after_the_coders(world, coders, tmp_path):
    narrow, wide = tmp_path / "saes" / "narrow", tmp_path / "saes" / "wide"
    for n, folder in ((3, narrow), (6, wide)):
        rows = torch.nn.functional.normalize(load_coder(world.coder).encoder_weight[:n], dim=1)
        save_coder(folder, [14.0 * row for row in rows])
    options = ("--subject", world.subject, "--dtype", "float32", "--corpus", world.corpus)
    out = tmp_path / "out"
    done = command(
        "harvest", *options, "--coder", narrow, "--coder", wide, "--hookpoint", LAYERS[0],
        "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    with gl.RunSet.open(out) as runs:
        assert runs.names == ["narrow", "wide"]
        assert [run.index.n_latents for run in runs] == [5, 8]
        assert {run.hookpoint for run in runs} == {LAYERS[0]}


def test_coders_are_trained_at_each_hookpoint_where_none_is_given(world, tmp_path):
    options = ("--subject", world.subject, "--dtype", "float32", "--corpus", world.corpus)
    sizes = ("--coder-latents", "64", "--coder-steps", "2")
    places = ("--hookpoint", "layers.0", "--hookpoint", "layers.1:in")
    done = command("harvest", *options, *sizes, *places, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    with gl.RunSet.open(tmp_path / "out") as runs:
        assert runs.names == ["layers.0", "layers.1:in"]
        assert [run.hookpoint for run in runs] == ["model.layers.0", "model.layers.1:in"]
        # What one layer gives is what the next is given, so both were trained on the same states.
        assert len({run.stages()["harvest"]["coder_hash"] for run in runs}) == 1
        a, b = (run.index for run in runs)
        assert a.nnz == b.nnz
    assert not list(tmp_path.rglob("hidden.f32*"))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"hookpoint": ["a", "b", "c"], "path": ["x", "y"]}, "2 coders for 3 hookpoints"),
        ({"hookpoint": ["a", "a"], "path": "x"}, "`x` at `a` is named twice"),
        ({"hookpoint": ["a", 3]}, "field `subject.hookpoint.1`"),
    ],
)
def test_settings_that_pair_no_coder_with_a_hookpoint_are_refused(section, said, tmp_path):
    from glossator.config import config_from

    values = {
        "subject": {"hookpoint": section["hookpoint"]},
        "coder": {"path": section.get("path", [])},
    }
    with pytest.raises(InputError, match=said):
        config_from(values, "run.toml")


def test_a_set_and_a_run_do_not_take_one_another_s_folder(world, coders, both):
    single = command("demo", *data(world, coders, LAYERS[0]), "--out", both[1])
    assert "holds the runs of several hookpoints" in single.error
    exported = command("export", "tables", both[1], both[1] / "tables")
    assert "holds the runs of several hookpoints; name one of them" in exported.error
    inside = command("demo", *data(world, coders, *LAYERS), "--out", both[1] / LAYERS[0])
    assert "name another --out" in inside.error
    fewer = command("demo", *data(world, coders, *LAYERS, "model.norm"), "--out", both[1])
    assert "holds runs of `model.layers.0`, `model.layers.1`" in fewer.error


def test_coders_that_want_other_contexts_are_harvested_apart(world, coders, monkeypatch, tmp_path):
    answers = iter([None, 7])
    monkeypatch.setattr(sys.modules["glossator.harvest"], "bos_for", lambda *_: next(answers))
    done = command("harvest", *data(world, coders, *LAYERS), "--out", tmp_path / "out")
    assert "harvest them apart" in done.error
