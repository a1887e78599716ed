"""Whole runs on a tiny subject: what they hold, what a second command reuses, what options do."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest

import glossator as gl
from glossator.cli_settings import settings
from glossator.pipeline.chosen import chosen_latents, judged_latents
from glossator.records import TABLES
from glossator.runs import Run
from tiny_runs import DEAD, HOOKPOINT, LIVE, N_LATENTS, RARE, command


@pytest.fixture(scope="module")
def first(world, tmp_path_factory):
    """A finished run, and what the command said."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = command("demo", *world.options, "--out", folder)
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture
def copied(first, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(first[0], tmp_path / "run")


def bytes_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tables_of(folder, *, without=()):
    with Run.open(folder) as run:
        return {name: run.table(name) for name in TABLES if name not in without}


def page_of(folder):
    """The atlas, speeds of this machine apart."""
    return re.sub(r"[\d,]+ GFLOP/s", "", (folder / "atlas.html").read_text())


def explained(folder, explainer="rules"):
    rows = tables_of(folder)["explanations"].to_pylist()
    return sorted(row["latent"] for row in rows if row["explainer"] == explainer)


def test_every_stage_says_its_progress_and_nothing_else_is_said(first):
    _, done = first
    assert done.stages == ["corpus", "harvest", "neighbours", "scramble", "rules", "check", "atlas"]


def test_the_closing_table_names_what_was_done_and_what_it_cost(first):
    folder, done = first
    for said in (
        f"latents {N_LATENTS}: {LIVE} live, {RARE} rare, 0 dense, {DEAD} dead",
        "types dead 12.5%, unigram 75.0%, rare 12.5%",
        f"free of context {LIVE} of {LIVE} unigram latents are active in over 90% of scrambles",
        f"explained by rules {LIVE} of {LIVE} live",
        "mean F1 per window 1.000 over 12 latents; another latent's rule: 0.",
        "F1 lower bound > 0.8 100.0% of latents (12 of 12",
        "language-model tokens 0",
        "per million latents",
        "hours of this machine",
    ):
        assert said in done.words
    assert str(folder / "atlas.html") in done.out.replace("\n", "").replace(" ", "")
    rows = [line.split() for line in done.out.partition("peak memory\n")[2].splitlines()]
    assert [row[0] for row in rows] == [
        *("subject", "corpus", "gate", "harvest", "neighbours", "triage", "scramble"),
        *("explain", "score", "atlas", "all"),
    ]
    assert all(float(row[1]) >= 0 and row[3] == "MiB" for row in rows)
    assert all(100 < int(row[2].replace(",", "")) < 4_000 for row in rows)


def test_the_tables_join_and_hold_every_live_latent(first):
    folder, _ = first
    tables = tables_of(folder)
    assert all(tables[name].schema.equals(TABLES[name]) for name in TABLES)
    latents = tables["latents"].to_pylist()
    assert [row["latent"] for row in latents] == list(range(N_LATENTS))
    assert {row["hookpoint"] for row in latents} == {HOOKPOINT}
    assert [row["status"] for row in latents] == ["live"] * LIVE + ["rare"] * RARE + ["dead"] * DEAD
    assert [row["type"] for row in latents] == (
        ["unigram"] * LIVE + ["rare"] * RARE + ["dead"] * DEAD
    )
    figures = pq.read_table(folder / "types.parquet")
    assert figures["peak_tokens"].to_pylist()[:LIVE] == [1] * LIVE
    assert figures["scrambles"].to_pylist() == [2] * LIVE + [0] * (RARE + DEAD)
    assert figures["scramble_share_on_token"].to_pylist()[:LIVE] == [1.0] * LIVE
    assert ET.parse(folder / "types.svg").getroot().tag.endswith("svg")
    assert all((row["reason"] is None) == (row["status"] == "live") for row in latents)
    assert all(len(json.loads(row["top_logits"])) == 10 for row in latents)
    explanations = {row["explanation_id"]: row for row in tables["explanations"].to_pylist()}
    assert sorted(row["latent"] for row in explanations.values()) == list(range(LIVE))
    for row in explanations.values():
        assert row["text"] == f"Activates on the token “␣hit{row['latent']}”."
    scores = tables["scores"].to_pylist()
    assert {row["explanation_id"] for row in scores} == set(explanations)
    assert {row["scorer"] for row in scores} == {"corpus"}
    protocols = {row["protocol_id"] for row in tables["protocols"].to_pylist()}
    assert {row["protocol_id"] for row in scores} == protocols
    assert len(protocols) == 1
    f1 = [row for row in scores if (row["metric"], row["kind"], row["decile"]) == ("f1", "all", 0)]
    assert len(f1) == LIVE
    assert all(0.8 < row["low"] <= row["value"] <= 1.0 for row in f1)
    assert tables["verdicts"].num_rows == 0
    assert tables["ledger"].num_rows == 0


def test_the_index_holds_what_the_words_say(first):
    folder, _ = first
    with Run.open(folder) as run:
        index, text = run.index, run.text
        length = index.context_length
        tokens, _, mask = index.contexts(np.arange(index.n_contexts, dtype=np.uint64))
        for latent in range(LIVE):
            positions, _ = index.postings(latent)
            word = text.tokenizer.token_to_id(f"hit{latent}")
            rows, offsets = np.nonzero((tokens == word) & mask)
            assert positions.tolist() == (rows * length + offsets).tolist()


def test_a_second_run_reuses_everything(world, first):
    folder, _ = first
    before, tables = bytes_of(folder), tables_of(folder)
    done = command("demo", *world.options, "--out", folder)
    assert done.code == 0
    assert done.stages == []
    after = bytes_of(folder)
    for name in ("run.db", "run.db-wal", "run.db-shm", "run.lock"):
        before.pop(name, None)
        after.pop(name, None)
    assert after == before
    assert tables_of(folder) == tables


def test_the_same_run_elsewhere_has_the_same_bytes(world, first, tmp_path):
    folder, _ = first
    assert command("demo", *world.options, "--out", tmp_path / "other").code == 0
    for name in ("index", "contexts"):
        assert bytes_of(tmp_path / "other" / name) == bytes_of(folder / name)
    assert page_of(tmp_path / "other") == page_of(folder)
    assert tables_of(tmp_path / "other") == tables_of(folder)


def test_stage_by_stage_is_the_same_as_all_at_once(world, first, tmp_path):
    folder, _ = first
    out = tmp_path / "staged"
    assert command("harvest", *world.options, "--out", out).code == 0
    assert explained(out) == []
    for name in ("explain", "score", "atlas"):
        done = command(name, out)
        assert done.code == 0, done.err
    assert tables_of(out) == tables_of(folder)
    assert page_of(out) == page_of(folder)


def test_its_own_settings_make_the_run_again(first, tmp_path):
    folder, _ = first
    assert command("run", folder / "config.toml", "--out", tmp_path / "again").code == 0
    assert tables_of(tmp_path / "again") == tables_of(folder)


def test_the_library_does_what_the_command_does(world, first, tmp_path):
    folder, _ = first
    with Run.open(folder) as run:  # A trial has found the faster number format of this machine.
        dtype = run.stages()["subject"]["dtype"]
    subject = {"name": str(world.subject), "hookpoint": HOOKPOINT, "dtype": dtype}
    config = gl.load_config(world.settings(tmp_path / "run.toml", subject=subject))
    with gl.run(config, tmp_path / "run") as run:
        assert run.table("scores") == tables_of(folder)["scores"]
        assert run.index.hash == Run.open(folder).index.hash


def test_inspect_says_what_the_run_holds(first):
    folder, _ = first
    done = command("inspect", folder)
    assert (done.code, done.err) == (0, "")
    assert "17,859 tokens of 400 documents" in done.words
    assert f"{LIVE} rows" in done.words
    assert "live" in done.words
    assert "float32" in done.words or "bfloat16" in done.words


def test_exported_tables_are_the_runs_tables(first, tmp_path):
    folder, _ = first
    done = command("export", "tables", folder, tmp_path / "tables")
    assert done.code == 0, done.err
    paths = [tmp_path / "tables" / f"{name}.parquet" for name in TABLES]
    assert done.out.split() == [str(path) for path in paths]
    for name, table in tables_of(folder).items():
        assert pq.read_table(tmp_path / "tables" / f"{name}.parquet") == table


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [("3,1", [1, 3]), ("2-4,2", [2, 3, 4])])
def test_only_the_named_latents_are_explained(world, given, expected, tmp_path):
    done = command("demo", *world.options, "--out", tmp_path / "run", "--latents", given)
    assert done.code == 0
    assert explained(tmp_path / "run") == expected


def test_latents_come_from_a_file_and_the_rest_can_follow(world, tmp_path):
    (tmp_path / "ids").write_text("3\n5\n")
    out = tmp_path / "run"
    assert command("demo", *world.options, "--out", out, "--latents", tmp_path / "ids").code == 0
    assert explained(out) == [3, 5]
    assert command("explain", out, "--latents", "5-6").code == 0
    assert explained(out) == [3, 5, 6]
    assert command("demo", *world.options, "--out", out).code == 0
    assert explained(out) == list(range(LIVE))


def test_a_dead_latent_can_be_named_and_gets_no_explanation(copied):
    done = command("explain", copied, "--latents", N_LATENTS - 1)
    assert done.code == 0
    assert explained(copied) == list(range(LIVE))


@pytest.mark.parametrize("name", ["explain", "score"])
def test_a_latent_out_of_range_is_named_and_changes_no_settings(name, copied):
    before = (copied / "config.toml").read_bytes()
    if name == "score":
        done = command("score", copied, "--latents", f"1,{N_LATENTS}")
    else:
        done = command("explain", copied, "--latents", f"1,{N_LATENTS}")
    assert done.code == 2
    assert f"{N_LATENTS} is not in the index; its latents are 0 to {N_LATENTS - 1}" in done.error
    assert (copied / "config.toml").read_bytes() == before
    assert command("score", copied).code == 0


def test_a_latent_out_of_range_is_named_after_the_harvest_of_a_new_run(world, tmp_path):
    out = tmp_path / "run"
    done = command("demo", *world.options, "--out", out, "--latents", "99")
    assert done.code == 2
    assert "99 is not in the index" in done.error
    done = command("demo", *world.options, "--out", out)
    assert done.code == 0
    assert "harvest" not in done.stages


def test_the_atlas_takes_chosen_pages(copied):
    done = command("atlas", copied, "--latents", "2,3")
    assert done.code == 0
    assert done.out.strip() == str(copied / "atlas.html")
    page = (copied / "atlas.html").read_text()
    assert f"lists all {N_LATENTS} latents and holds the pages of 2 of them" in page
    done = command("atlas", copied, "--latents", "99")
    assert done.code == 2
    assert "99" in done.error
    assert (copied / "atlas.html").read_text() == page


def test_another_seed_divides_the_documents_otherwise(world, first, tmp_path):
    folder, _ = first
    done = command("demo", *world.options, "--out", folder, "--seed", "1")
    assert done.code == 2
    assert "this run is over other data (`seed` differ)" in done.error
    out = tmp_path / "other"
    assert command("demo", *world.options, "--out", out, "--seed", "1").code == 0
    with Run.open(out) as one, Run.open(folder) as other:
        assert one.index.split_seed == 1
        assert one.index.hash != other.index.hash
        counts = [int(run.index.counts().sum()) for run in (one, other)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


def test_a_lossless_run_keeps_every_activation_and_says_so(world, tmp_path):
    settings = world.settings(tmp_path / "run.toml")
    coded, exact = tmp_path / "coded", tmp_path / "exact"
    assert command("run", settings, "--out", coded).code == 0
    assert command("run", settings, "--out", exact, "--lossless").code == 0
    for out, precision in ((coded, "code, 1/32"), (exact, "bf16")):
        with Run.open(out) as run:
            assert run.precision == run.index.precision == precision
        assert f"precision {precision} " in command("inspect", out).words
        assert f"<dd>{precision}</dd>" in (out / "atlas.html").read_text()
    with Run.open(coded) as one, Run.open(exact) as other:
        for latent in range(N_LATENTS):
            places, rounded = one.index.postings(latent)
            others, values = other.index.postings(latent)
            assert (places == others).all()
            np.testing.assert_allclose(rounded, values, rtol=1 / 32)


def test_the_precision_of_a_run_stays_what_it_was(world, tmp_path):
    settings = world.settings(tmp_path / "run.toml")
    for out, option, other in (
        (tmp_path / "a", [], ["--lossless"]),
        (tmp_path / "b", ["--lossless"], []),
    ):
        assert command("run", settings, "--out", out, *option).code == 0
        before = bytes_of(out / "index")
        done = command("run", settings, "--out", out, *other)
        assert done.code == 2
        assert "this run is over other data (`index.lossless` differ)" in done.error
        assert gl.load_config(out / "config.toml").index.lossless == bool(option)
        assert bytes_of(out / "index") == before
        done = command("run", out / "config.toml", "--out", out)
        assert (done.code, "harvest" in done.stages) == (0, False)


def test_a_harvest_can_be_lossless(world, tmp_path):
    assert command("harvest", *world.options, "--lossless", "--out", tmp_path / "run").code == 0
    assert gl.Index.open(tmp_path / "run" / "index").precision == "bf16"


def test_a_run_over_other_data_is_refused_naming_the_fields(world, first, tmp_path):
    folder, _ = first
    other = tmp_path / "other.jsonl"
    shutil.copy(world.corpus, other)
    arguments = ["--subject", world.subject, "--coder", world.coder, "--corpus", other]
    done = command("demo", *arguments, "--out", folder, "--tokens", "5000")
    assert done.code == 2
    for name in ("`corpus.source`", "`corpus.tokens`", "`subject.hookpoint`"):
        assert name in done.error


def test_a_coder_is_trained_once_and_kept(world, tmp_path):
    settings = world.settings(tmp_path / "run.toml", trained=True)
    cache = {"GLOSSATOR_CACHE": str(tmp_path / "cache")}
    done = command("run", settings, "--out", tmp_path / "one", **cache)
    assert done.code == 0, done.err
    assert done.stages == [
        *("corpus", "forward", "train", "harvest", "neighbours"),
        *("scramble", "rules", "check", "atlas"),
    ]
    assert not list((tmp_path / "one").glob("hidden*"))
    done = command("run", settings, "--out", tmp_path / "two", **cache)
    assert done.stages == ["corpus", "harvest", "neighbours", "scramble", "rules", "check", "atlas"]
    assert bytes_of(tmp_path / "one" / "index") == bytes_of(tmp_path / "two" / "index")
    assert tables_of(tmp_path / "one") == tables_of(tmp_path / "two")


def test_a_run_that_goes_on_keeps_to_its_number_format(world, tmp_path, monkeypatch):
    load = importlib.import_module("glossator.subjects.load")
    harvest = importlib.import_module("glossator.harvest")
    out = tmp_path / "run"
    monkeypatch.setattr(load, "_WORTH_IT", 0.0)  # bfloat16 always wins the trial
    monkeypatch.setattr(harvest, "harvest", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("demo", *world.options, "--dtype", "auto", "--out", out)
    monkeypatch.undo()
    monkeypatch.setattr(load, "_WORTH_IT", 1e9)  # it never does
    assert command("demo", *world.options, "--dtype", "auto", "--out", out).code == 0
    with Run.open(out) as run:
        assert run.index.attributes["subject_dtype"] == "bfloat16"
        assert run.stages()["subject"]["dtype_reason"].startswith("a trial on this CPU")


def test_latents_of_a_skipped_type_are_not_asked_of_a_language_model(copied):
    with Run.open(copied, write=True) as run:
        assert len(judged_latents(run)) == LIVE
        for skipped, left in ((("positional",), LIVE), (("positional", "unigram"), 0)):
            run.configure(settings(run.config, {"explain__skip_types": ",".join(skipped)}))
            assert run.config.explain.skip_types == skipped
            assert len(judged_latents(run)) == left
            assert len(chosen_latents(run)) == LIVE
    assert "field `explain.skip_types" in command("score", copied, "--skip-types", "none").error
