"""Types of latents: what was planted is found, and nothing else is."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import hypergeom

import glossator as gl
from glossator.errors import InputError
from glossator.latent_types import TYPES, _expected_distinct, _position_chance, latent_types
from glossator.logit_weights import LogitWeights
from glossator.neighbours import Neighbours
from index_reference import Plain, corpora, scratch_folders

S, W, CONTEXTS, V, D = 128, 32, 400, 300, 256
LATENTS = (
    *("dead", "unigram", "few tokens", "positional", "bigram", "next-token", "twin", "other twin"),
    *("say", "one window", "rare", "dense", "random", "frequent", "half position"),
)
AT = {name: latent for latent, name in enumerate(LATENTS)}


def world():
    """Random text with planted pairs, and a latent of each kind."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, V, (CONTEXTS, S))
    tokens[rng.random(tokens.shape) < 0.03] = 12
    places = rng.random((CONTEXTS, S)) < 0.01
    places[:, 0] = False
    tokens[places] = 12
    tokens[:, :-1][places[:, 1:]] = 11
    before = np.full_like(tokens, -1)
    before[:, 1:] = tokens[:, :-1]
    dense = np.zeros((CONTEXTS, S, len(LATENTS)), np.float32)

    def plant(name, where):
        dense[:, :, AT[name]] = where * rng.uniform(0.5, 4, where.shape)

    def strewn(share):
        return rng.random(tokens.shape) < share

    plant("unigram", tokens == 7)
    plant("few tokens", np.isin(tokens, np.arange(100, 115)))
    plant("positional", np.arange(S)[None] == np.full((CONTEXTS, 1), 50))
    plant("bigram", (tokens == 12) & (before == 11))
    plant("next-token", before == 13)
    plant("twin", strewn(0.02))
    dense[:, :, AT["other twin"]] = dense[:, :, AT["twin"]] * 0.7
    dense[:3, :, AT["other twin"]] = 0
    plant("say", strewn(0.02))
    dense[3, 40:42, AT["one window"]] = 1
    plant("rare", strewn(0.0004))
    plant("dense", strewn(0.3))
    plant("random", strewn(0.01))
    plant("frequent", strewn(0.08))
    plant("half position", strewn(0.2) & (np.arange(S) >= S // 2))
    return Plain(
        tokens=tokens,
        documents=np.repeat(np.arange(CONTEXTS)[:, None], S, axis=1),
        mask=np.ones((CONTEXTS, S), bool),
        dense=dense,
        window=W,
        first_context=0,
        split_seed=0,
        segment_contexts=1_000,
    )


@pytest.fixture(scope="module")
def plain():
    return world()


@pytest.fixture(scope="module")
def index(plain, tmp_path_factory):
    return plain.index(tmp_path_factory.mktemp("types") / "index")


@pytest.fixture(scope="module")
def directions():
    """Decoder rows and an unembedding: a pair of twins, and one row that promotes two tokens."""
    rng = np.random.default_rng(6)
    unembedding = rng.standard_normal((V, D), np.float32)
    decoder = rng.standard_normal((len(LATENTS), D), np.float32)
    decoder[AT["other twin"]] = decoder[AT["twin"]] + 0.1 * decoder[0]
    decoder[AT["random"]] = decoder[AT["frequent"]] * 2  # near, but active elsewhere
    decoder[AT["say"]] = unembedding[5] + unembedding[9]
    return decoder, unembedding


@pytest.fixture(scope="module")
def kinds(index, directions):
    decoder, unembedding = directions
    logits = LogitWeights.of(decoder, unembedding)
    return latent_types(index, decoder=decoder, logits=logits, min_windows=20, min_documents=10)


def test_what_was_planted_is_found_and_nothing_else(kinds):
    assert dict(zip(LATENTS, kinds["types"], strict=True)) == {
        "dead": "dead",
        "unigram": "unigram",
        "few tokens": "unigram",
        "positional": "positional",
        "bigram": "bigram",
        "next-token": "next-token",
        "twin": "other",
        "other twin": "duplicate",
        "say": "say",
        "one window": "rare",
        "rare": "rare",
        "dense": "dense",
        "random": "other",
        "frequent": "other",
        "half position": "positional",
    }
    assert set(kinds["type"]) <= set(TYPES)


def test_figures_say_why(kinds, plain):
    def of(name, latent):
        return kinds[name][AT[latent]]

    assert of("peak_ids", "unigram") == [7]
    assert sorted(of("peak_ids", "few tokens")) == list(range(100, 115))
    assert of("pair_ids", "bigram") == [[11, 12]]
    assert of("previous_ids", "next-token") == [13]
    assert of("peak_recall", "unigram") == of("pair_recall", "bigram") == 1
    assert of("previous_recall", "next-token") == 1
    assert of("peak_recall", "bigram") == np.mean(
        plain.dense[plain.tokens == 12][:, AT["bigram"]] > 0
    )
    assert of("position_share", "positional") == pytest.approx(1)
    assert of("position_information", "positional") == pytest.approx(
        -np.log(1 / S) / S - (1 - 1 / S) * np.log(1 - 1 / S)
    )
    assert (
        of("position_information", "positional")
        < 0.05
        < of("position_information", "half position")
    )
    assert of("duplicate_of", "other twin") == AT["twin"]
    assert of("duplicate_of", "twin") == -1
    assert of("duplicate_cosine", "other twin") > 0.9
    assert 0.9 < of("duplicate_jaccard", "other twin") < 1
    assert of("logit_tokens", "say") == 2
    assert {len(column) for column in kinds.values()} == {len(LATENTS)}


def test_without_directions_nothing_is_said_of_them(index):
    kinds = latent_types(index)
    assert not {"say", "duplicate"} & set(kinds["type"])
    assert np.isnan(kinds["logit_z"]).all()
    assert set(kinds["duplicate_of"]) == {-1}


def test_segments_make_no_difference(plain, kinds, directions, tmp_path):
    many = plain.index(tmp_path / "index", segment_contexts=37)
    decoder, unembedding = directions
    logits = LogitWeights.of(decoder, unembedding)
    found = latent_types(many, decoder=decoder, logits=logits, min_windows=20, min_documents=10)
    for name, column in kinds.items():
        if column.dtype == object:
            assert column.tolist() == found[name].tolist(), name
        else:
            np.testing.assert_array_equal(column, found[name], err_msg=name)


def test_neighbours_that_were_counted_give_the_same_duplicates(index, directions, kinds):
    near = Neighbours.of(directions[0], 3)
    found = latent_types(index, neighbours=near.with_index(index))
    np.testing.assert_array_equal(found["duplicate_of"], kinds["duplicate_of"])


def test_of_three_alike_the_most_frequent_one_stays(tmp_path):
    plain = world()
    where = plain.dense[:, :, AT["frequent"]]
    for latent, cut in ((2, 1), (3, 0), (4, 2)):
        plain.dense[:, :, latent] = where
        plain.dense[:cut, :, latent] = 0
    decoder = np.random.default_rng(1).standard_normal((len(LATENTS), 9), np.float32)
    decoder[3:5] = decoder[2]
    kinds = latent_types(plain.index(tmp_path / "index"), decoder=decoder)
    assert kinds["duplicate_of"][[2, 3, 4]].tolist() == [3, -1, 3]


def plain_tokens(plain, latent, per_cent=80):
    """Distinct tokens at and before the peaks of the strongest windows."""
    tokens, values = plain.tokens.reshape(-1), plain.kept()[:, latent]
    windows = values.reshape(-1, plain.window)
    ranked = sorted(
        (i for i in range(len(windows)) if windows[i].max() > 0), key=lambda i: -windows[i].max()
    )
    peaks = [
        i * plain.window + int(windows[i].argmax())
        for i in ranked[: -(-len(ranked) * per_cent // 100)]
    ]
    own = Counter(int(tokens[p]) for p in peaks)
    inside = [p for p in peaks if p % plain.tokens.shape[1]]
    before = Counter(int(tokens[p - 1]) for p in inside)
    pairs = Counter((int(tokens[p - 1]), int(tokens[p])) for p in inside)
    return len(peaks), own, before, pairs


@settings(max_examples=40, deadline=None)
@given(corpora())
def test_figures_of_any_index_equal_brute_force(plain):
    with scratch_folders() as folder:
        index = plain.index(folder())
        kinds = latent_types(index, max_tokens=3, min_peaks=1)
        kept, mask = plain.kept(), plain.mask.reshape(-1)
        tokens = plain.tokens.reshape(-1)
        for latent in range(plain.n_latents):
            n, own, before, pairs = plain_tokens(plain, latent)
            assert kinds["peak_windows"][latent] == n
            assert kinds["peak_tokens"][latent] == len(own)
            assert kinds["previous_tokens"][latent] == len(before)
            assert kinds["pair_tokens"][latent] == min(len(pairs), 4)
            few = [t for t, _ in sorted(own.items(), key=lambda e: (-e[1], e[0]))]
            assert kinds["peak_ids"][latent] == (few if len(few) <= 3 else [])
            if own:
                assert kinds["peak_share"][latent] == max(own.values()) / n
            if own and len(own) <= 3:
                there = np.isin(tokens, few) & mask
                recall = (kept[there, latent] > 0).mean()
                assert kinds["peak_recall"][latent] == pytest.approx(recall)


def test_an_empty_index_has_dead_latents_alone(tmp_path):
    plain = world()
    empty = dataclasses.replace(
        plain,
        tokens=plain.tokens[:0],
        documents=plain.documents[:0],
        mask=plain.mask[:0],
        dense=plain.dense[:0],
    )
    kinds = latent_types(empty.index(tmp_path / "index"))
    assert set(kinds["types"]) == {"dead"}


def test_chance_is_what_random_places_give():
    n, offsets = 128 * 50, 128
    for count in (1, 7, 60, 1_000):
        k = np.arange(51)
        pmf = hypergeom.pmf(k, n, 50, count)
        with np.errstate(divide="ignore", invalid="ignore"):
            active = np.where(k > 0, k * np.log(k * n / (count * 50)), 0)
            silent = np.where(k < 50, (50 - k) * np.log((50 - k) * n / ((n - count) * 50)), 0)
        exact = offsets * (pmf * (active + silent)).sum() / n
        assert _position_chance(np.array([count]), offsets, n)[0] == pytest.approx(exact, rel=0.12)


def test_expected_distinct_tokens_are_those_of_all_draws():
    frequency = np.array([0, 3, 2, 1])
    draws = [len({*draw}) for draw in itertools.product([1, 1, 1, 2, 2, 3], repeat=4)]
    assert _expected_distinct(frequency, np.array([4.0]))[0] == pytest.approx(np.mean(draws))
    assert _expected_distinct(np.array([0, 9]), np.array([4.0]))[0] == 1


def test_logit_weights_are_those_of_the_whole_product():
    rng = np.random.default_rng(2)
    decoder, unembedding = rng.standard_normal((5, 8)), rng.standard_normal((300, 8)) + 1
    weights = decoder @ unembedding.T
    found = LogitWeights.of(decoder, unembedding)
    np.testing.assert_allclose(found.top, -np.sort(-weights)[:, :21], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean, weights.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.deviation, weights.std(axis=1), rtol=1e-4)
    z = (weights - weights.mean(axis=1, keepdims=True)) / weights.std(axis=1, keepdims=True)
    np.testing.assert_allclose(found.z, z.max(axis=1), rtol=1e-4)
    half = (z >= z.max(axis=1, keepdims=True) / 2).sum(axis=1)
    np.testing.assert_array_equal(found.tokens, np.minimum(half, 21))
    given = LogitWeights.of(decoder, unembedding, top=found.top)
    np.testing.assert_array_equal(given.z, found.z)


def test_what_does_not_fit_is_refused(index):
    with pytest.raises(InputError, match="`max_tokens` is 0"):
        latent_types(index, max_tokens=0)
    few = LogitWeights.of(np.ones((2, 3)), np.ones((4, 3)))
    with pytest.raises(InputError, match="`logits` is of 2 latents"):
        latent_types(index, logits=few)
    with pytest.raises(InputError, match="one width"):
        LogitWeights.of(np.ones((2, 3)), np.ones((4, 5)))
    with pytest.raises(InputError):
        latent_types(index, decoder=np.eye(4))


def test_it_is_public():
    assert gl.latent_types is latent_types
