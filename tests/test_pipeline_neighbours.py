"""Neighbours in a run: kept with what they are, resumed, and negatives drawn from them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections import defaultdict

import numpy as np
import pytest

from glossator.coders import load_coder
from glossator.config import NegativeConfig, RunConfig, config_from
from glossator.errors import InputError
from glossator.neighbours import NO_NEIGHBOUR, RELATIONS, Neighbours, neighbours
from glossator.runs import Run
from glossator.sampling import NegativePlan
from judge_servers import ChatServer
from tiny_runs import DEAD, N_LATENTS, command, knowing


@pytest.fixture(scope="module")
def settings(world, tmp_path_factory):
    return world.settings(tmp_path_factory.mktemp("settings") / "run.toml")


@pytest.fixture(scope="module")
def first(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = command("run", settings, "--out", folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def copied(first, tmp_path):
    return shutil.copytree(first, tmp_path / "run")


def forget(folder, *stages):
    """A run as it is before these stages are done."""
    with sqlite3.connect(folder / "run.db") as database:
        for stage in stages:
            database.execute("DELETE FROM facts WHERE name = ?", (f"stage:{stage}",))
    database.close()


def windows_of(index, latent):
    starts, _, _ = index.windows(latent)
    return set((starts // np.uint64(index.window)).tolist())


def test_a_run_holds_the_neighbours_of_its_coder_and_how_often_they_are_active(world, first):
    coder = load_coder(world.coder)
    ids, cosines = neighbours(coder, k=N_LATENTS - 1)
    with Run.open(first) as run:
        near, index = run.neighbours, run.index
    np.testing.assert_array_equal(near.ids, ids)
    np.testing.assert_array_equal(near.cosines, cosines)
    assert near.coder_hash == coder.hash == index.attributes["coder_hash"]
    assert near.index_hash == index.hash
    active = [windows_of(index, latent) for latent in range(N_LATENTS)]
    for latent in range(N_LATENTS):
        for rank, other in enumerate(ids[latent].tolist()):
            both = len(active[latent] & active[other])
            together = near.coactivation
            assert together.both[latent, rank] == both
            if active[latent] and active[other]:
                assert together.given[latent, rank] == both / len(active[latent])
                assert together.given_back[latent, rank] == both / len(active[other])
                either = len(active[latent] | active[other])
                assert together.jaccard[latent, rank] == both / either


def test_the_stage_says_what_it_found(first):
    with Run.open(first) as run:
        facts = run.stages()["neighbours"]
        assert facts["k"] == N_LATENTS - 1
        assert sum(facts["relations"].values()) == N_LATENTS * (N_LATENTS - 1)
        assert list(facts["relations"]) == list(RELATIONS)
        assert facts["notes"] == []


def test_the_same_run_elsewhere_has_the_same_bytes(settings, first, tmp_path):
    assert command("run", settings, "--out", tmp_path / "run").code == 0
    name = "neighbours.parquet"
    assert (tmp_path / "run" / name).read_bytes() == (first / name).read_bytes()


@pytest.mark.parametrize("written", [True, False])
def test_a_run_killed_while_it_looks_for_neighbours_goes_on(settings, first, copied, written):
    forget(copied, "neighbours", "triage")
    if not written:
        (copied / "neighbours.parquet").unlink()
    done = command("run", settings, "--out", copied)
    assert done.code == 0, done.err
    assert "neighbours" in done.stages
    name = "neighbours.parquet"
    assert (copied / name).read_bytes() == (first / name).read_bytes()


def test_a_run_of_before_opens_and_goes_on_without_them(settings, copied):
    forget(copied, "neighbours")
    (copied / "neighbours.parquet").unlink()
    done = command("run", settings, "--out", copied)
    assert done.code == 0, done.err
    assert done.stages == ["atlas"]  # Its pages lose their links.
    with Run.open(copied) as run:
        assert run.neighbours is None
    # One command gives them to it.
    arguments = (copied, "-k", N_LATENTS - 1, "--index", copied / "index")
    path = copied / "neighbours.parquet"
    done = command("neighbours", *arguments, "--out", path)
    assert done.code == 0, done.err
    with Run.open(copied) as run:
        assert run.neighbours.coactivation is not None


def test_the_command_finds_the_coder_that_a_run_trained(world, tmp_path):
    settings = world.settings(tmp_path / "run.toml", trained=True)
    out = tmp_path / "run"
    assert command("run", settings, "--out", out).code == 0
    path = tmp_path / "near.parquet"
    assert command("neighbours", out, "-k", 32, "--index", out / "index", "--out", path).code == 0
    assert path.read_bytes() == (out / "neighbours.parquet").read_bytes()


def test_a_damaged_or_foreign_file_is_refused_in_one_line(copied):
    path = copied / "neighbours.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with Run.open(copied) as run, pytest.raises(InputError, match="no whole Parquet file"):
        _ = run.neighbours
    Neighbours(np.zeros((9, 1), np.uint32), np.zeros((9, 1), np.float32)).write(path)
    with Run.open(copied) as run, pytest.raises(InputError, match="16 latents, the decoder 9"):
        _ = run.neighbours


def test_rows_of_zeros_are_noted_in_the_run(world, tmp_path):
    from glossator.coders import sparsify

    coder = load_coder(world.coder)
    coder.decoder[N_LATENTS - 1] = 0
    folder = tmp_path / "coder" / world.coder.name
    folder.mkdir(parents=True)
    sparsify.fill(coder, folder)
    options = [folder if each == str(world.coder) else each for each in world.options]
    done = command("demo", *options, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    said = "`decoder`: 1 of 16 rows are zeros and have no neighbours (15)"
    with Run.open(tmp_path / "run") as run:
        assert said in run.notes()
        assert (run.neighbours.ids[N_LATENTS - 1] == NO_NEIGHBOUR).all()
    assert said in done.words


# --- negatives ---------------------------------------------------------------------------------


def test_the_settings_of_negatives_are_the_fields_of_their_plan():
    fields, planned = NegativeConfig.model_fields, NegativePlan.model_fields
    assert set(fields) == set(planned)
    for name in set(fields) - {"n"}:
        assert fields[name].default == planned[name].default, name
    assert fields["kind"].annotation == planned["kind"].annotation


@pytest.mark.parametrize(
    ("negatives", "said"),
    [
        ([{"kind": "hard"}], "score.negatives.0.kind"),
        ([{"ranks": [0, 3]}], "score.negatives.0.ranks.0"),
        ([{"ranks": [3, 1]}], "runs backwards"),
        ([{"many": 3}], "score.negatives.0.many"),
    ],
)
def test_negatives_that_cannot_be_are_refused_before_anything_starts(negatives, said):
    with pytest.raises(InputError, match=said):
        config_from({"score": {"negatives": negatives}}, "run.toml")


def test_the_default_settings_leave_a_finished_run_finished(copied):
    with Run.open(copied) as run:
        assert run.done("score")
        run.config = RunConfig.model_validate(
            {**run.config.model_dump(), "score": {"negatives": [{"kind": "peak_token"}]}}
        )
        assert not run.done("score")


def settings_of(world, path, server, *negatives, **more):
    return world.settings(
        path,
        judge={"url": server.url, "max_latents": 3},
        score={"negatives": list(negatives), **more},
    )


@pytest.fixture(scope="module")
def server():
    with ChatServer(knowing(0.9, 0.8)) as server:
        yield server


LADDER = (
    {"kind": "random", "n": 10},
    {"kind": "peak_token", "n": 5},
    {"kind": "near_token", "n": 5},
    {"kind": "decoder", "n": 10, "ranks": [1, 15]},
    {"kind": "decoder_unfiltered", "n": 10, "ranks": [1, 15], "pool": 10},
)


def test_a_run_draws_the_negatives_that_its_settings_name(world, server, tmp_path):
    settings = settings_of(world, tmp_path / "run.toml", server, *LADDER)
    done = command("run", settings, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    with Run.open(tmp_path / "run") as run:
        examples = run.table("examples").to_pylist()
        scores = run.table("scores").to_pylist()
        (parameters,) = [
            json.loads(row["parameters"])
            for row in run.table("protocols").to_pylist()
            if row["judge"]
        ]
        near = run.neighbours
    kinds = {row["kind"] for row in examples}
    assert {"random", "decoder", "decoder_unfiltered"} <= kinds
    assert [one["kind"] for one in parameters["negatives"]] == [one["kind"] for one in LADDER]
    for row in examples:
        if row["kind"] in ("decoder", "decoder_unfiltered"):
            assert near.ids[row["latent"], row["source_rank"] - 1] == row["source_latent"]
        if row["kind"] not in (None, "decoder_unfiltered"):
            assert not any(row["activations"])
    kinds_of = defaultdict(set)
    for row in scores:
        kinds_of[row["scorer"]].add(row["kind"])
    # The silent windows of a known share of all; the hard ones; wrong marks.
    assert "all" in kinds_of["detection"]
    assert {"all", "decoder", "decoder_unfiltered"} <= kinds_of["neighbours"]
    assert kinds_of["fuzzing"] == {"all"}
    again = command("run", settings, "--out", tmp_path / "run")
    assert (again.code, again.stages) == (0, [])


def test_dead_latents_have_neighbours_and_are_nobodys_source(first):
    with Run.open(first) as run:
        near = run.neighbours
    assert (near.ids[N_LATENTS - DEAD :] != NO_NEIGHBOUR).any()


def test_a_run_without_neighbours_is_told_how_to_get_them(world, server, copied, tmp_path):
    forget(copied, "neighbours")
    (copied / "neighbours.parquet").unlink()
    settings = settings_of(world, tmp_path / "run.toml", server, {"kind": "decoder", "n": 5})
    done = command("run", settings, "--out", copied)
    assert done.code == 2
    assert f"run `glossator neighbours {copied} -k 32 --index {copied}/index" in done.error


def test_negatives_by_embedding_are_embedded_once(world, server, tmp_path, monkeypatch):
    from glossator import embeddings

    texts = []

    def encoder(_name):
        def encode(given):
            texts.extend(given)
            rows = np.zeros((len(given), 32))
            for row, text in enumerate(given):
                for word in text.split():
                    rows[row, sum(word.encode()) % 32] += 1
            return rows

        return encode

    monkeypatch.setattr(embeddings, "_sentence_encoder", encoder)
    monkeypatch.setattr(embeddings, "refuse_missing", lambda _model: None)
    settings = settings_of(
        world,
        tmp_path / "run.toml",
        server,
        {"kind": "random", "n": 10},
        {"kind": "embedding", "n": 10},
        embedding_model="words",
        embedding_windows=200,
    )
    out = tmp_path / "run"
    done = command("run", settings, "--out", out)
    assert done.code == 0, done.err
    assert {"embed", "nearest"} <= set(done.stages)
    assert 200 < len(texts) <= 200 + 3 * 8
    assert len(list(out.glob("embeddings-words-*"))) == 1
    with Run.open(out) as run:
        rows = [row for row in run.table("examples").to_pylist() if row["kind"] == "embedding"]
        assert run.stages()["embeddings"]["seconds"] >= 0
    assert rows
    assert all(row["source_rank"] >= 1 and not any(row["activations"]) for row in rows)
    texts.clear()
    forget(out, "score", "score-judge")
    assert command("run", settings, "--out", out).code == 0
    assert texts == []


def test_embeddings_without_their_package_are_refused_in_one_line(
    world, server, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    settings = settings_of(world, tmp_path / "run.toml", server, {"kind": "embedding", "n": 5})
    done = command("run", settings, "--out", tmp_path / "run")
    assert done.code == 2
    assert "pip install 'glossator[embeddings]'" in done.error
    assert done.stages_before == []  # Before the corpus is read.
