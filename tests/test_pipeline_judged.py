"""The judged path through the commands, against a server that knows the truth and errs as told."""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest

from glossator.records import TABLES
from glossator.runs import Run
from glossator.score import scores_from
from judge_servers import ChatServer
from tiny_runs import HOOKPOINT, LIVE, POST, command, is_explaining, knowing

RECALL, SPECIFICITY = 0.9, 0.8
PLANTED = (RECALL + SPECIFICITY) / 2
NAMES = ("rules", "delimited:known")


@pytest.fixture(scope="module")
def unjudged(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("unjudged") / "run"
    assert command("demo", *world.options, "--out", out).code == 0
    return out


@pytest.fixture(scope="module")
def judged(world, unjudged, tmp_path_factory):
    """A run made without a judge, to which one was added; what was said; the server."""
    out = shutil.copytree(unjudged, tmp_path_factory.mktemp("judged") / "run")
    with ChatServer(knowing(RECALL, SPECIFICITY)) as server:
        done = command("demo", *world.options, "--out", out, *POST, "--judge", server.url)
        assert done.code == 0, done.err
        yield out, done, server


def tables_of(out):
    with Run.open(out) as run:
        return {name: run.table(name) for name in TABLES}


def _prompts(out):
    return len(set(tables_of(out)["verdicts"]["prompt_id"].to_pylist()))


def balanced(out):
    """Rows of balanced accuracy over all, with the explainer's name."""
    tables = tables_of(out)
    names = {row["explanation_id"]: row["explainer"] for row in tables["explanations"].to_pylist()}
    return [
        {**row, "explainer": names[row["explanation_id"]]}
        for row in tables["scores"].to_pylist()
        if (row["metric"], row["kind"], row["decile"]) == ("balanced_accuracy", "all", 0)
    ]


def test_a_judge_is_added_to_a_run_made_without_one(unjudged, judged):
    out, done, _ = judged
    assert done.stages == ["explain", "score", "atlas"]
    before, after = tables_of(unjudged), tables_of(out)
    assert after["latents"] == before["latents"]
    for name in ("explanations", "scores", "protocols"):
        rows = after[name].to_pylist()
        assert all(row in rows for row in before[name].to_pylist())
    files = [path.relative_to(out) for path in (out / "index").rglob("*") if path.is_file()]
    assert all((out / name).read_bytes() == (unjudged / name).read_bytes() for name in files)
    assert (out / "atlas.html").read_bytes() != (unjudged / "atlas.html").read_bytes()


def test_the_judge_explains_each_latent_by_its_marked_words(judged):
    rows = tables_of(judged[0])["explanations"].to_pylist()
    words = [row for row in rows if row["explainer"] == "delimited:known"]
    assert [row["latent"] for row in sorted(words, key=lambda row: row["latent"])] == list(
        range(LIVE)
    )
    for row in words:
        assert row["text"] == f"the word hit{row['latent']}"
        assert row["hookpoint"] == HOOKPOINT
        assert row["rule"] is None


def test_the_planted_accuracy_comes_out_within_its_interval(judged):
    rows = balanced(judged[0])
    assert len(rows) == 2 * 2 * LIVE
    inside = [row["low"] <= PLANTED <= row["high"] for row in rows]
    assert np.mean(inside) > 0.9
    for explainer in NAMES:
        for scorer in ("detection", "fuzzing"):
            values = [
                row["value"]
                for row in rows
                if (row["explainer"], row["scorer"]) == (explainer, scorer)
            ]
            assert len(values) == LIVE
            assert np.mean(values) == pytest.approx(PLANTED, abs=0.04)


def test_a_judge_that_never_errs_scores_one_or_nearly(world, unjudged, tmp_path):
    out = shutil.copytree(unjudged, tmp_path / "run")
    with ChatServer(knowing()) as server:
        done = command("demo", *world.options, "--out", out, *POST, "--judge", server.url)
    assert done.code == 0
    # A word on a masked position is in the text, but no latent is active there.
    values = [row["value"] for row in balanced(out)]
    assert np.median(values) == 1.0
    assert min(values) > 0.97
    # Scores that are all the same have no spread to make an interval of.
    assert "above chance" in done.words or min(values) == 1.0
    assert "mean balanced accuracy 1.000" in done.words or min(values) < 1.0
    assert "near chance" not in (out / "atlas.html").read_text()


def test_a_judge_that_guesses_is_said_to_be_near_chance(world, unjudged, tmp_path):
    out = shutil.copytree(unjudged, tmp_path / "run")
    with ChatServer(knowing(0.5, 0.5)) as server:
        arguments = ("demo", *world.options, "--out", out, *POST, "--judge", server.url)
        done = command(*arguments, "--max-latents", "4")
    assert done.code == 0
    assert done.words.count("not distinguishable from chance (0.5)") >= 3
    assert "a judge near chance" in (out / "atlas.html").read_text()


def test_the_tables_join(judged):
    tables = {name: table.to_pylist() for name, table in tables_of(judged[0]).items()}
    explanations = {row["explanation_id"] for row in tables["explanations"]}
    examples = {row["example_id"]: row for row in tables["examples"]}
    protocols = {row["protocol_id"]: row for row in tables["protocols"]}
    assert {row["explanation_id"] for row in tables["verdicts"]} == explanations
    assert {row["protocol_id"] for row in tables["scores"]} == set(protocols)
    assert {row["judge"] for row in protocols.values()} == {"", "known"}
    for row in tables["verdicts"]:
        example = examples[row["example_id"]]
        assert example["split"] == "score"
        assert row["answer"] is not None
        if row["scorer"] == "detection":
            assert row["truth"] == example["activating"]
    # Fifty windows of ten deciles and twenty others; fifty marked rightly, twenty wrongly.
    per_explanation = len(tables["verdicts"]) / len(explanations)
    assert 0.95 * 140 < per_explanation <= 140


def test_the_scores_can_be_computed_again_from_the_verdicts_in_any_order(judged):
    tables = tables_of(judged[0])
    order = list(range(tables["verdicts"].num_rows))
    random.Random(0).shuffle(order)
    again = scores_from(tables["verdicts"].take(order), tables["examples"])
    stored = {
        tuple(row[name] for name in ("explanation_id", "scorer", "metric", "kind", "decile")): row
        for row in tables["scores"].to_pylist()
    }
    assert again.num_rows > 1_000
    for row in again.to_pylist():
        key = tuple(row[name] for name in ("explanation_id", "scorer", "metric", "kind", "decile"))
        assert {name: stored[key][name] for name in ("value", "low", "high", "n")} == {
            name: row[name] for name in ("value", "low", "high", "n")
        }


def test_the_ledger_counts_what_was_sent_and_received(judged):
    out, done, server = judged
    rows = tables_of(out)["ledger"].to_pylist()
    ledger = defaultdict(Counter)
    for row in rows:
        key = row.pop("stage"), row.pop("scorer")
        ledger[key].update(row)
    assert len(rows) == 3 * LIVE  # a line for each latent
    asked = server.asked
    explaining = [request for request in asked if is_explaining(request)]
    assert set(ledger) == {
        ("explain", "delimited:known"),
        ("score", "detection"),
        ("score", "fuzzing"),
    }
    assert ledger["explain", "delimited:known"]["requests"] == len(explaining) == LIVE
    scoring = [row for key, row in ledger.items() if key[0] == "score"]
    assert sum(row["requests"] for row in scoring) == len(asked) - LIVE == _prompts(out)
    sent = sum(len(turn["content"].split()) for each in asked for turn in each.body["messages"])
    assert sum(row["prompt_tokens"] for row in ledger.values()) == sent
    total = sent + sum(row["completion_tokens"] for row in ledger.values())
    assert f"language-model tokens {total:,}" in done.words
    assert all(row["seconds"] > 0 for row in ledger.values())
    assert all(
        row["unique_prompt_tokens"] == row["prompt_tokens"] - row["cached_tokens"]
        for row in ledger.values()
    )


def test_the_same_command_again_asks_nothing(world, judged):
    out, _, server = judged
    tables, page = tables_of(out), (out / "atlas.html").read_bytes()
    before = len(server.requests)
    done = command("demo", *world.options, "--out", out, *POST, "--judge", server.url)
    assert (done.code, done.err) == (0, "")
    assert len(server.requests) == before
    assert tables_of(out) == tables
    assert (out / "atlas.html").read_bytes() == page


def test_so_many_latents_are_drawn_by_seed_and_more_can_follow(world, unjudged, tmp_path):
    out = shutil.copytree(unjudged, tmp_path / "run")
    with ChatServer(knowing()) as server:
        arguments = ("explain", out, *POST[4:], "--judge", server.url)
        assert command(*arguments, "--max-latents", "3").code == 0
        few = _judged_latents(out)
        assert len(few) == 3
        assert few != {0, 1, 2}
        assert command(*arguments, "--max-latents", "5").code == 0
        more = _judged_latents(out)
        assert few < more
        assert len(more) == 5
        assert len(server.asked) == 5
        assert command("score", out, "--preset", "post", "--null", "0").code == 0
        assert len(server.asked) == 5 + 5 * 2 * 28
        assert command("atlas", out).code == 0
        assert command(*arguments, "--latents", "0,1", "--max-latents", "5").code == 0
        assert _judged_latents(out) == more | {0, 1}


def _judged_latents(out):
    rows = tables_of(out)["explanations"].to_pylist()
    return {row["latent"] for row in rows if row["explainer"] != "rules"}


def test_two_judges_live_side_by_side(world, unjudged, tmp_path):
    out = shutil.copytree(unjudged, tmp_path / "run")
    with ChatServer(knowing(), models=("first", "second")) as server:
        for model in ("first", "second"):
            done = command(
                *("demo", *world.options, "--out", out, *POST, "--judge", server.url),
                *("--judge-model", model, "--max-latents", "2"),
            )
            assert done.code == 0, done.err
    tables = tables_of(out)
    names = [row["explainer"] for row in tables["explanations"].to_pylist()]
    assert names.count("delimited:first") == names.count("delimited:second") == 2
    judges = [row["judge"] for row in tables["protocols"].to_pylist()]
    assert sorted(judges) == ["", "first", "second"]
    assert {row["scorer"] for row in tables["ledger"].to_pylist()} == {
        *("delimited:first", "delimited:second", "detection", "fuzzing")
    }
