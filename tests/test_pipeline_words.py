"""A judged run as it is by default: one example a prompt, nulls, q-values."""

import shutil
from collections import defaultdict

import pytest

from glossator.records import TABLES
from glossator.runs import Run
from judge_servers import ChatServer
from tiny_runs import command, knowing


def tables_of(out):
    with Run.open(out) as run:
        return {name: run.table(name).to_pylist() for name in TABLES}


@pytest.fixture(scope="module")
def unjudged(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("unjudged") / "run"
    assert command("demo", *world.options, "--out", out).code == 0
    return out


@pytest.fixture(scope="module")
def judged(world, unjudged, tmp_path_factory):
    out = shutil.copytree(unjudged, tmp_path_factory.mktemp("judged") / "run")
    with ChatServer(knowing(0.95, 0.9)) as server:
        arguments = ("--judge", server.url, "--max-latents", "4")
        done = command("demo", *world.options, "--out", out, *arguments)
        assert done.code == 0, done.err
        yield out, done, len(server.asked)


def test_each_latent_is_judged_by_its_own_and_by_anothers_explanation(judged):
    out, _, asked = judged
    tables = tables_of(out)
    names = defaultdict(set)
    for row in tables["explanations"]:
        names[row["explainer"]].add(row["latent"])
    own = next(name for name in names if name.endswith(":known") and not name.startswith("null:"))
    assert len(names[own]) == 4
    assert names[f"null:{own}"] == names[own]
    texts = {(row["explainer"], row["latent"]): row["text"] for row in tables["explanations"]}
    for latent in names[own]:
        assert texts[f"null:{own}", latent] != texts[own, latent]
    assert {row["preset"] for row in tables["protocols"]} == {"corpus", "glossator"}
    # Twenty-five and twenty-five by each of two scorers, one in a prompt.
    prompts = {row["prompt_id"] for row in tables["verdicts"]}
    assert len(prompts) == len(tables["verdicts"])
    # Two explanations that say the same are asked about once.
    assert 0.8 * len(prompts) < asked - 4 <= len(prompts)
    # Few silent windows of so small a corpus hold a peak token.
    assert 0.8 * 3 * 4 * 100 < len(prompts) <= 3 * 4 * 100


def test_the_null_is_near_chance_and_the_lift_is_said(judged):
    out, done, _ = judged
    rows = [row for row in tables_of(out)["scores"] if row["metric"] == "balanced_accuracy"]
    rows = [row for row in rows if (row["kind"], row["decile"]) == ("all", 0)]
    compared = [row for row in rows if row["null_value"] is not None]
    assert len(compared) == 2 * 4
    for row in compared:
        assert row["value"] > 0.8
        assert row["null_value"] == pytest.approx(0.5, abs=0.1)
        assert row["p_value"] <= row["q_value"] < 0.05
    assert (
        done.words.count("another latent's explanation 0.5")
        + done.words.count("another latent's explanation 0.4")
        == 2
    )
    assert "called good (q ≤ 0.05)" in done.words


def test_the_page_shows_nobody_elses_explanation(judged):
    out, _, _ = judged
    page = (out / "atlas.html").read_text()
    assert "null:" not in page


def test_a_judge_that_guesses_has_no_good_score(world, unjudged, tmp_path):
    out = shutil.copytree(unjudged, tmp_path / "run")
    with ChatServer(knowing(0.5, 0.5)) as server:
        arguments = ("--judge", server.url, "--max-latents", "3")
        done = command("demo", *world.options, "--out", out, *arguments)
    assert done.code == 0
    judged = [part for part in done.words.split("judged ")[1:] if "mean" in part]
    assert judged
    for line in judged:
        assert "no score called good" in line
    assert "a judge near chance" in (out / "atlas.html").read_text()
