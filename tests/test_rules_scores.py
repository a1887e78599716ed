"""The table of scores of rules: figures, nulls, reasons, and the helpers over it."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest

from glossator.explain.rules import learn_rules, rule_positions
from glossator.index import Index, IndexWriter
from glossator.records import TABLES, Explanation, Rule
from glossator.score.corpus import mean_f1, score_rules, share_above
from glossator.score.intervals import MIN_DOCUMENTS

S, W, CONTEXTS = 64, 32, 300


class Numbers:
    def name(self, token):
        return str(token)


@pytest.fixture(scope="module")
def made():
    """Latents: exact on token 40; half of token 20; silent on the score side; dead; everywhere."""
    rng = np.random.default_rng(1)
    tokens = (100 * rng.random((CONTEXTS, S)) ** 2).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        names = (str(Path(folder) / str(i)) for i in itertools.count())
        sides_of = _sides(next(names), tokens)
        active = np.stack(
            [
                tokens == 40,
                (tokens == 20) & (rng.random(tokens.shape) < 0.5),
                (tokens == 60) & (sides_of == 0)[:, None],
                np.zeros(tokens.shape, bool),
                np.ones(tokens.shape, bool),
            ],
            axis=2,
        )
        dense = np.where(active, 1 + rng.random(active.shape), 0).astype(np.float32)
        path = next(names)
        with IndexWriter(path, n_latents=5, context_length=S) as writer:
            ids = np.broadcast_to(np.arange(5), dense.shape)
            writer.add(tokens, ids, dense, np.arange(CONTEXTS))
        index = Index.open(path)
        explanations = learn_rules(index, range(5), names=Numbers())
        yield index, tokens, active, explanations


def _sides(path, tokens):
    with IndexWriter(path, n_latents=1, context_length=S) as writer:
        writer.add(
            tokens,
            np.zeros((*tokens.shape, 0), int),
            np.zeros((*tokens.shape, 0), np.float32),
            np.arange(CONTEXTS),
        )
    return Index.open(path).sides()[:: S // W]


def rows(table, explanation, metric, decile=0):
    found = [
        row
        for row in table.to_pylist()
        if row["explanation_id"] == explanation.explanation_id
        and (row["metric"], row["decile"]) == (metric, decile)
    ]
    assert len(found) == 1
    return found[0]


def test_figures_are_those_of_rule_positions(made):
    index, tokens, active, explanations = made
    table = score_rules(index, explanations, protocol_id="p")
    scored = ((index.sides() == 1) & index.eligible()).reshape(CONTEXTS, -1)
    for one in explanations:
        fired = rule_positions(one.rule, tokens)
        for prefix, keep, shape in (
            ("", scored, (CONTEXTS, -1, W)),
            ("token_", np.repeat(scored, W, axis=1), (CONTEXTS, -1, 1)),
        ):
            predicted = fired.reshape(shape).any(axis=2)[keep]
            actual = active[:, :, one.latent].reshape(shape).any(axis=2)[keep]
            tp, fp = (predicted & actual).sum(), (predicted & ~actual).sum()
            fn, tn = (~predicted & actual).sum(), (~predicted & ~actual).sum()
            for name, value in (("tp", tp), ("fp", fp), ("fn", fn), ("tn", tn)):
                row = rows(table, one, prefix + name)
                assert row["value"] == value
                assert (row["low"], row["high"], row["reason"]) == (None, None, None)
            for name, right, of in (
                ("precision", tp, tp + fp),
                ("recall", tp, tp + fn),
                ("f1", 2 * tp, 2 * tp + fp + fn),
            ):
                row = rows(table, one, prefix + name)
                assert (row["n_positive"], row["n_negative"]) == (tp + fn, fp + tn)
                assert row["n"] == keep.sum()
                if of and (name != "f1" or tp + fn):
                    assert row["value"] == pytest.approx(right / of)
                else:
                    assert row["value"] is None
                    assert row["reason"]


def test_the_table_has_the_columns_of_the_run_and_24_rows_a_rule(made):
    index, _, _, explanations = made
    table = score_rules(index, explanations, protocol_id="p")
    assert table.schema == TABLES["scores"]
    assert table.num_rows == 24 * len(explanations)
    ids = table["explanation_id"].to_pylist()
    assert [key for key, _ in itertools.groupby(ids)] == [e.explanation_id for e in explanations]
    assert set(table["scorer"].to_pylist()) == {"corpus"}
    assert set(table["protocol_id"].to_pylist()) == {"p"}
    keys = {(r["explanation_id"], r["metric"], r["decile"]) for r in table.to_pylist()}
    assert len(keys) == table.num_rows
    for row in table.to_pylist():
        for low, high in ((row["low"], row["value"]), (row["value"], row["high"])):
            assert low is None or high is None or low <= high


def test_recall_by_decile_adds_up_to_recall(made):
    index, _, _, explanations = made
    table = score_rules(index, explanations)
    for one in explanations:
        by_decile = [rows(table, one, "recall", decile) for decile in range(1, 11)]
        whole = rows(table, one, "recall")
        assert sum(row["n"] for row in by_decile) == whole["n_positive"]
        hits = sum(row["n"] * row["value"] for row in by_decile if row["value"] is not None)
        if whole["value"] is not None:
            assert hits == pytest.approx(whole["value"] * whole["n_positive"])
        for row in by_decile:
            assert (row["value"] is None) == (row["n"] == 0) == (row["high"] is None)
            if row["low"] is not None and 0 < row["value"] < 1:
                assert row["low"] < row["value"] < row["high"]


def test_a_good_rule_beats_another_latents_rule(made):
    index, _, _, explanations = made
    row = rows(score_rules(index, explanations), explanations[0], "f1")
    assert row["value"] > 0.95
    assert 0.8 < row["low"] <= row["value"]
    assert row["null_value"] < row["value"]


def test_every_null_is_another_latents_rule_and_the_seed_says_whose(made):
    index, tokens, active, explanations = made
    scored = np.repeat(((index.sides() == 1) & index.eligible()).reshape(CONTEXTS, -1), W, axis=1)
    seen = set()
    for seed in range(8):
        table = score_rules(index, explanations, seed=seed)
        assert table.equals(score_rules(index, explanations, seed=seed))
        pairing = []
        for one in explanations:
            null = rows(table, one, "token_tp")["null_value"]
            hits = {
                other.latent: (rule_positions(other.rule, tokens) & active[:, :, one.latent])[
                    scored
                ].sum()
                for other in explanations
            }
            assert null in [hit for latent, hit in hits.items() if latent != one.latent]
            pairing.append(null)
        seen.add(tuple(pairing))
    assert len(seen) > 1
    alone = score_rules(index, explanations[:1])
    assert set(alone["null_value"].to_pylist()) == {None}


def test_two_explanations_of_one_latent_never_serve_as_each_others_null(made):
    index, _, _, explanations = made
    twin = Explanation.of("h", 0, "mine", "the same", rule=explanations[0].rule)
    wrong = Explanation.of("h", 1, "mine", "never fires", rule=Rule(tokens=(10**6,)))
    table = score_rules(index, [explanations[0], twin, wrong])
    for one in (explanations[0], twin):
        assert rows(table, one, "tp")["null_value"] == 0
        assert rows(table, one, "precision")["null_value"] is None


def test_what_has_no_value_or_no_bound_says_why(made):
    index, _, _, explanations = made
    silent = next(one for one in explanations if one.latent == 2)
    still = Explanation.of("h", 0, "mine", "never", rule=Rule(tokens=(10**6,)))
    table = score_rules(index, [silent, still])
    for metric in ("recall", "f1"):
        row = rows(table, silent, metric)
        assert row["value"] is row["low"] is row["high"] is None
        assert row["reason"] == "the latent is active in no eligible window of the score side"
    assert rows(table, silent, "precision")["value"] == 0
    assert f"fewer than {MIN_DOCUMENTS}" in rows(table, silent, "precision")["reason"]
    row = rows(table, still, "precision")
    assert row["value"] is None
    assert row["reason"] == "the rule fires in no eligible window of the score side"
    assert rows(table, still, "f1")["value"] == 0
    assert rows(table, still, "recall")["reason"] is None


def test_means_and_shares_name_what_they_are_of(made):
    index, _, _, explanations = made
    table = score_rules(index, explanations)
    mean = mean_f1(table)
    values = [rows(table, one, "f1") for one in explanations]
    there = [row["value"] for row in values if row["value"] is not None]
    assert (mean.n, mean.total) == (len(there), len(explanations)) == (3, 4)
    assert mean.value == pytest.approx(np.mean(there))
    share = share_above(table, 0.8)
    bounds = [row["low"] for row in values if row["low"] is not None]
    assert share.above == sum(low > 0.8 for low in bounds)
    assert (share.bounded, share.total) == (len(bounds), 4)
    assert share.value == share.above / 4
    nothing = score_rules(index, [])
    assert (mean_f1(nothing).value, share_above(nothing).value) == (None, None)
    assert nothing.schema == TABLES["scores"]


def test_explanations_without_a_rule_are_left_out(made):
    index, _, _, explanations = made
    words = Explanation.of("h", 0, "delimited", "a text")
    assert score_rules(index, [words]).num_rows == 0
    assert score_rules(index, [words, explanations[0]]).num_rows == 24
