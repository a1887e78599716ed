"""Types in a run: what was planted in a model is found, with its scrambles, and nothing else is."""

import json
import shutil
import sqlite3
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glossator.coders import load_coder
from glossator.pipeline.data import subject_and_coder
from glossator.pipeline.latents import SCRAMBLED_SHARE
from glossator.progress import SILENT
from glossator.runs import Run
from glossator.scramble import scramble_test, token_activations
from glossator.type_shares import read_types
from planted_types import AT, HOOKPOINT, SAID, TYPES, WORDS, make_types_world
from tiny_runs import command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_types_world(tmp_path_factory.mktemp("types"))


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    done = command("harvest", *world.options, "--out", out)
    assert done.code == 0, done.err
    assert "scramble" in done.stages
    return out


@pytest.fixture(scope="module")
def kinds(folder):
    return read_types(folder / "types.parquet")[HOOKPOINT]


def test_what_was_planted_in_a_model_is_found_and_nothing_else(folder, kinds):
    assert dict(zip(TYPES, kinds["types"].tolist(), strict=True)) == TYPES
    assert kinds["peak_ids"][AT["one token"]] == [7]
    assert sorted(kinds["peak_ids"][AT["ten tokens"]]) == list(range(20, 30))
    assert kinds["duplicate_of"][AT["copy"]] == AT["original"]
    with Run.open(folder) as run:
        rows = run.table("latents").to_pylist()
    assert [row["type"] for row in rows] == list(TYPES.values())
    assert json.loads(rows[AT["speaker"]]["top_logits"])[0][0] == SAID


def test_unigram_latents_are_active_in_every_scramble(folder, kinds):
    tested = [AT["one token"], AT["ten tokens"]]
    assert kinds["scrambles"][tested].tolist() == [2, 20]
    assert kinds["scramble_share"][tested].tolist() == [1, 1]
    assert kinds["scramble_share_on_token"][tested].tolist() == [1, 1]
    others = np.delete(np.arange(len(TYPES)), tested)
    assert not kinds["scrambles"][others].any()
    assert np.isnan(kinds["scramble_share"][others]).all()
    with Run.open(folder) as run:
        facts = run.stages()["scramble"]
    assert (facts["latents"], facts["tested"]) == (2, 2)
    assert facts["tokens"] == facts["tokens_tested"] == 11
    assert facts["over"] == {f"{percent}%": 2 for percent in (50, 60, 70, 80, 90)}


def test_a_bigram_latent_is_silent_in_scrambles_of_its_token(folder, kinds):
    with Run.open(folder) as run:
        source = token_activations(*subject_and_coder(run, SILENT))
    latents = [AT["pair"], AT["one token"]]
    test = scramble_test(kinds, latents, source, np.arange(WORDS), repeats=60)
    assert test["scrambles"].tolist() == [60, 60]
    # One in 150 has the right token before it.
    assert test["share"][0] < 0.1
    assert test["share_on_token"].tolist() == [pytest.approx(0, abs=0.1), 1]


def test_a_short_corpus_has_a_sample_of_its_tokens_tested_and_the_run_says_so(
    world, folder, tmp_path
):
    with Run.open(folder) as run:
        room = run.index.n_tokens * SCRAMBLED_SHARE
        assert not any("scramble" in note for note in run.notes())
    assert room > 11 * 2 * 20
    done = command("harvest", *world.options, "--tokens", 3_000, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    with Run.open(tmp_path / "run") as run:
        facts, notes = run.stages()["scramble"], run.notes()
        tokens = run.index.n_tokens
    assert 0 < facts["tokens_tested"] < facts["tokens"]
    assert facts["tokens_tested"] * 2 * 20 <= tokens * SCRAMBLED_SHARE
    assert f"planted {facts['tokens_tested']} of the {facts['tokens']} peak tokens" in notes[-1]
    kinds = read_types(tmp_path / "run" / "types.parquet")[HOOKPOINT]
    assert kinds["scrambles"].sum() == 2 * facts["tokens_tested"]


def test_a_run_killed_in_its_scrambles_goes_on_to_the_same_figures(world, folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "run")
    with sqlite3.connect(copied / "run.db") as database:
        database.execute("DELETE FROM facts WHERE name IN ('stage:triage', 'stage:scramble')")
    database.close()
    for name in ("types.parquet", "types.svg"):
        (copied / name).unlink()
    done = command("harvest", *world.options, "--out", copied)
    assert done.code == 0, done.err
    assert "scramble" in done.stages
    for name in ("types.parquet", "types.svg"):
        assert (copied / name).read_bytes() == (folder / name).read_bytes()


def test_the_command_tells_what_the_run_told(world, folder, tmp_path):
    done = command("types", folder, "--json", "--plot", tmp_path / "types.svg")
    assert (done.code, done.err) == (0, "")
    counts = {row["type"]: row["latents"] for row in json.loads(done.out)}
    assert counts == {kind: list(TYPES.values()).count(kind) for kind in counts}
    assert (tmp_path / "types.svg").read_bytes() == (folder / "types.svg").read_bytes()
    bars = ET.parse(folder / "types.svg").iter("{http://www.w3.org/2000/svg}title")
    assert any(bar.text == f"{HOOKPOINT}: say, 1 (7.1%)" for bar in bars)
    # An index alone does not know what its latents write, and says so in a line each.
    done = command("types", folder / "index", "--json")
    bare = {row["type"]: row["latents"] for row in json.loads(done.out)}
    assert (bare["say"], bare["duplicate"]) == (0, 0)
    assert done.err.splitlines() == [
        f"{HOOKPOINT}: duplicates are not told: that takes a run, --neighbours or --coder",
        f"{HOOKPOINT}: what latents say is not told: that takes a run, or --coder and --subject",
    ]
    options = ("--coder", world.coder.parent, "--subject", world.subject)
    done = command("types", folder / "index", *options, "--json")
    assert done.err == ""
    assert {row["type"]: row["latents"] for row in json.loads(done.out)} == counts


def test_a_run_says_which_decoder_of_a_cross_layer_coder_it_took(world, tmp_path):
    coder = load_coder(world.coder)
    folder = tmp_path / "clt"
    folder.mkdir()
    # What it says is written in two parts; neither says it alone.
    first = torch.randn(coder.decoder.shape, generator=torch.Generator().manual_seed(5))
    first[AT["copy"]] = first[AT["original"]]
    layers = torch.stack([first, coder.decoder - first], dim=1)
    encoder = {"W_enc_0": coder.encoder_weight, "b_enc_0": coder.encoder_bias}
    save_file(encoder | {"b_dec_0": coder.decoder_bias}, folder / "W_enc_0.safetensors")
    save_file({"W_dec_0": layers.contiguous()}, folder / "W_dec_0.safetensors")
    hooks = "feature_input_hook: hook_resid_post\nfeature_output_hook: hook_mlp_out\n"
    (folder / "config.yaml").write_text(hooks)
    options = [folder if each == str(world.coder) else each for each in world.options]
    done = command("harvest", *options, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    kinds = read_types(tmp_path / "run" / "types.parquet")[HOOKPOINT]
    assert kinds["type"].tolist() == list(TYPES.values())
    with Run.open(tmp_path / "run") as run:
        assert run.neighbours.decoder == run.stages()["neighbours"]["decoder"]
        assert run.neighbours.decoder == "blocks.0.hook_mlp_out"
        said = (
            "neighbours and duplicates go by its decoder at `blocks.0.hook_mlp_out`, the first of"
        )
        assert any(said in note for note in run.notes())


def test_options_of_an_index_are_refused_for_a_run(world, folder):
    done = command("types", folder, "--coder", world.coder)
    assert done.code == 2
    assert "is a run, which knows its own" in done.error
    done = command("types", folder / "index", "--subject", world.subject)
    assert "give --coder" in done.error
