"""Rules: what fires where, what is learned from what, and the counts of the whole score side."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator import _core
from glossator.errors import InputError
from glossator.explain.rules import RuleOptions, learn_rules, rule_positions, rule_text
from glossator.index import Index, IndexWriter
from glossator.records import Near, Rule
from index_reference import corpora

FEW = settings(max_examples=60, deadline=None, derandomize=True)
OPTIONS = RuleOptions().model_dump()


class Numbers:
    """Names that are the numbers."""

    def name(self, token):
        return str(token)


@pytest.fixture(scope="module")
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder), itertools.count()
        yield lambda: root / str(next(count))


@st.composite
def rules(draw, vocabulary=5):
    tokens = st.lists(st.integers(0, vocabulary), min_size=1, max_size=3).map(tuple)
    reach = st.integers(0, 4)
    near = st.none() | st.builds(Near, tokens=tokens, before=reach, after=reach)
    return Rule(tokens=draw(tokens), require=draw(near), exclude=draw(near))


def fires(rule, tokens, mask, at):
    """Whether a rule fires at one place of one context, word for word."""

    def near(clause):
        return any(
            place != at and mask[place] and tokens[place] in clause.tokens
            for place in range(at - clause.before, at + clause.after + 1)
            if 0 <= place < len(tokens)
        )

    return (
        bool(mask[at])
        and tokens[at] in rule.tokens
        and (rule.require is None or near(rule.require))
        and not (rule.exclude is not None and near(rule.exclude))
    )


def brute_force(plain, latent, rule):
    """All columns of a check, from lists."""
    sides, eligible = plain.sides(), plain.eligible()
    kept = plain.kept()[:, latent] > 0
    tokens, mask = plain.tokens.reshape(-1), plain.mask.reshape(-1)
    documents, length = plain.documents.reshape(-1), plain.tokens.shape[1]
    starts, _, deciles, _ = plain.windows(latent)
    decile_of = dict(zip(starts - plain.base, deciles, strict=True))
    tallies = {"window": {}, "token": {}}
    sizes = dict.fromkeys(tallies, 0)
    hit, of = np.zeros(10, int), np.zeros(10, int)
    for number in np.flatnonzero((sides == 1) & eligible):
        places = [p for p in range(number * plain.window, (number + 1) * plain.window) if mask[p]]
        fired = []
        for place in places:
            row = slice(place // length * length, (place // length + 1) * length)
            fired.append(fires(rule, tokens[row], mask[row], place % length))
        units = [("token", documents[p], f, kept[p]) for p, f in zip(places, fired, strict=True)]
        active = any(kept[p] for p in places)
        units.append(("window", documents[places[0]], any(fired), active))
        for unit, document, predicted, actual in units:
            sizes[unit] += 1
            tally = tallies[unit].setdefault(document, np.zeros(3, int))
            tally += [predicted and actual, predicted and not actual, actual and not predicted]
        if active:
            decile = decile_of[number * plain.window]
            of[decile - 1] += 1
            hit[decile - 1] += any(fired)
    expected = {"decile_windows": of, "decile_hits": hit}
    for unit, by_document in tallies.items():
        tp, fp, fn = np.array(list(by_document.values()), int).reshape(-1, 3).T
        found = {
            "tp": tp.sum(),
            "fp": fp.sum(),
            "fn": fn.sum(),
            "tn": sizes[unit] - (tp + fp + fn).sum(),
            "tp_tp": (tp * tp).sum(),
            "fp_fp": (fp * fp).sum(),
            "fn_fn": (fn * fn).sum(),
            "tp_fp": (tp * fp).sum(),
            "tp_fn": (tp * fn).sum(),
            "fp_fn": (fp * fn).sum(),
            "documents_predicted": (tp + fp > 0).sum(),
            "documents_actual": (tp + fn > 0).sum(),
            "documents_any": (tp + fp + fn > 0).sum(),
        }
        expected.update({f"{unit}_{name}": value for name, value in found.items()})
    return expected, sizes


@FEW
@given(rules(), st.data())
def test_rule_positions_are_the_definition_word_for_word(rule, data):
    shape = data.draw(st.sampled_from([(1,), (7,), (3, 5)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    tokens, mask = rng.integers(0, 6, shape), rng.random(shape) < 0.8
    rows, seen = tokens.reshape(-1, shape[-1]), mask.reshape(-1, shape[-1])
    expected = [
        [fires(rule, row, live, at) for at in range(shape[-1])]
        for row, live in zip(rows, seen, strict=True)
    ]
    found = rule_positions(rule, tokens, mask)
    np.testing.assert_array_equal(found, np.array(expected, bool).reshape(shape))


@FEW
@given(corpora(), st.lists(rules(2), min_size=5, max_size=5))
def test_a_check_equals_brute_force(scratch, plain, some):
    index = plain.index(scratch())
    checker = _core.RuleChecker(index._core)
    latents = np.arange(plain.n_latents, dtype=np.uint32)
    texts = [rule.model_dump_json() for rule in some[: plain.n_latents]]
    found = checker.check(latents, texts)
    for latent in latents:
        expected, sizes = brute_force(plain, latent, some[latent])
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name][latent], value, err_msg=name)
        assert (checker.windows, checker.tokens) == (sizes["window"], sizes["token"])


@FEW
@given(corpora(), st.integers(0, 99))
def test_nothing_of_the_score_side_reaches_a_rule(scratch, plain, seed):
    learned = learn_rules(plain.index(scratch()), range(plain.n_latents), names=Numbers())
    explain = np.repeat(plain.sides() == 0, plain.window).reshape(plain.mask.shape)
    rng = np.random.default_rng(seed)
    plain.dense = np.where(explain[:, :, None], plain.dense, rng.permuted(plain.dense, axis=0))
    assert learn_rules(plain.index(scratch()), range(plain.n_latents), names=Numbers()) == learned


@FEW
@given(corpora())
def test_every_latent_that_is_active_on_the_explain_side_has_a_rule(scratch, plain):
    explanations = learn_rules(plain.index(scratch()), range(plain.n_latents), names=Numbers())
    explain = np.repeat(plain.sides() == 0, plain.window)
    active = (plain.kept() > 0) & explain[:, None]
    assert [one.latent for one in explanations] == np.flatnonzero(active.any(axis=0)).tolist()
    for one in explanations:
        known = plain.tokens.reshape(-1)[active[:, one.latent]]
        assert set(one.rule.tokens) <= set(known.tolist())


S, W, VOCABULARY = 64, 32, 200


class Planted:
    """Documents of one context each; token t stands in place of rank t of a Zipf-like law."""

    def __init__(self, folder, truths, *, lost=0.05, stray=0.001, contexts=1600, **index):
        rng = np.random.default_rng(0)
        self.tokens = (VOCABULARY * rng.random((contexts, S)) ** 2).astype(np.int64)
        draw = rng.random((len(truths), contexts, S))
        dense = np.empty((contexts, S, len(truths)), np.float32)
        for latent, truth in enumerate(truths):
            holds = truth(self.tokens)
            active = np.where(holds, draw[latent] >= lost, draw[latent] < stray)
            dense[:, :, latent] = np.where(active, 1 + draw[latent], 0)
        latents = np.broadcast_to(np.arange(len(truths)), dense.shape)
        options = {"n_latents": len(truths), "context_length": S, "window": W, **index}
        with IndexWriter(folder, **options) as writer:
            writer.add(self.tokens, latents, dense, np.arange(contexts))
        self.index = Index.open(folder)

    def rules(self, **options):
        latents = range(self.index.n_latents)
        made = learn_rules(
            self.index, latents, names=Numbers(), options=RuleOptions(**options), hookpoint="h"
        )
        assert [one.latent for one in made] == list(latents)
        return [one.rule for one in made]


def before(stands, steps):
    """Whether something stands in one of the last `steps` places."""
    found = np.zeros_like(stands)
    for step in range(1, steps + 1):
        found[:, step:] |= stands[:, :-step]
    return found


def plant_sets(tokens):
    return np.isin(tokens, (40, 77, 130))


def plant_after(tokens):
    return (tokens == 9) & before(tokens < 5, 1)


def plant_not_near(tokens):
    return (tokens == 12) & ~before(tokens == 0, 8)


def plant_ahead(tokens):
    return (tokens == 5) & before(tokens[:, ::-1] < 7, 1)[:, ::-1]


@pytest.fixture(scope="module")
def planted(scratch):
    return Planted(scratch(), [plant_sets, plant_after, plant_not_near, plant_ahead])


def test_planted_rules_are_found_exactly_in_noise(planted):
    tokens, after, not_near, _ = planted.rules()
    assert tokens == Rule(tokens=tokens.tokens)
    assert set(tokens.tokens) == {40, 77, 130}
    assert (after.tokens, after.exclude) == ((9,), None)
    assert set(after.require.tokens) == {0, 1, 2, 3, 4}
    assert (after.require.before, after.require.after) == (1, 0)
    assert not_near == Rule(tokens=(12,), exclude=Near(tokens=(0,), before=8, after=0))


def test_what_follows_is_seen_only_with_look_ahead(planted):
    assert planted.rules()[3].require is None or planted.rules()[3].require.after == 0
    ahead = planted.rules(look_ahead=True)[3]
    assert ahead.tokens == (5,)
    assert set(ahead.require.tokens) == set(range(7))
    assert (ahead.require.before, ahead.require.after) == (0, 1)


def test_bounds_are_kept(planted):
    for rule in planted.rules(max_tokens=2, max_context_tokens=3, reach=2):
        assert len(rule.tokens) <= 2
        for near in filter(None, (rule.require, rule.exclude)):
            assert len(near.tokens) <= 3
            assert near.before <= 2


def test_a_clause_that_no_gain_can_pay_for_is_left_out(planted):
    for rule in planted.rules(min_gain=1.0):
        assert (rule.require, rule.exclude) == (None, None)


def test_rules_do_not_depend_on_segments_or_on_who_else_is_learned(planted, scratch):
    truths = [plant_sets, plant_after, plant_not_near, plant_ahead]
    other = Planted(scratch(), truths, segment_contexts=37)
    assert other.rules() == planted.rules()
    alone = learn_rules(planted.index, [2, 1, 2], names=Numbers(), hookpoint="h")
    assert [one.latent for one in alone] == [2, 1]
    assert [one.rule for one in alone] == [planted.rules()[2], planted.rules()[1]]


def test_rules_read_as_sentences():
    class Names:
        def name(self, token):
            return {1: "␣at", 2: "␣least", 3: "⏎"}.get(token, "?")

    assert rule_text(Rule(tokens=(2,)), Names()) == "Activates on the token “␣least”."
    rule = Rule(
        tokens=(2, 3),
        require=Near(tokens=(1, 4), before=1, after=0),
        exclude=Near(tokens=(3,), before=8, after=3),
    )
    assert rule_text(rule, Names()) == (
        "Activates on the tokens “␣least”, “⏎” in the context of “␣at” or “?” (right before it), "
        "but not near “⏎” (at most 8 tokens before it or at most 3 tokens after it)."
    )
    both = Rule(tokens=(1,), require=Near(tokens=(2,), before=1, after=1))
    assert rule_text(both, Names()).endswith("(at most 1 token away).")


def test_what_is_no_rule_is_refused_by_its_place(planted):
    checker = _core.RuleChecker(planted.index._core)
    latents = np.array([0, 1], np.uint32)
    good = Rule(tokens=(1,)).model_dump_json()
    with pytest.raises(InputError, match=r"`rules\[1\]` is no rule: .*tokens"):
        checker.check(latents, [good, "{}"])
    with pytest.raises(InputError, match="2 latents and 1 rules"):
        checker.check(latents, [good])
    with pytest.raises(InputError, match="latent 99 is not in the index"):
        checker.check(np.array([99], np.uint32), [good])
    with pytest.raises(InputError, match="latent 99 is not in the index"):
        _core.RuleLearner(planted.index._core, **OPTIONS).learn(np.array([99], np.uint32))
    with pytest.raises(InputError, match="must be one shape"):
        rule_positions(Rule(tokens=(1,)), [1, 2], [True])
