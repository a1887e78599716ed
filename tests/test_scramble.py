"""The scramble test: equal to encoding every latent's every scramble alone, and bounded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.coders import SparseCoder
from glossator.encode import TopK
from glossator.errors import InputError
from glossator.scramble import _scramble, scramble_test, token_activations
from glossator.subjects import load_subject
from tiny_models import save_bert, save_llama

VOCABULARY = np.arange(20, 90)


class Source:
    """Latent 0 is active on 7; latent 1 on 7 after a token below 30; latent 2 on 40, never on 7."""

    def __init__(self):
        self.rows = []

    def __call__(self, rows):
        self.rows += [tuple(row) for row in rows.tolist()]
        before = np.concatenate([np.full((len(rows), 1), 999), rows[:, :-1]], axis=1)
        active = [rows == 7, (rows == 7) & (before < 30), rows == 40]
        latents, at, offsets = np.nonzero(np.stack(active))
        return at, offsets, latents


def on(*peaks):
    """What is known of latents that peak on these tokens."""
    ids = np.empty(len(peaks), object)
    ids[:] = [list(few) for few in peaks]
    return {"peak_ids": ids, "type": np.array(["unigram"] * len(peaks), object)}


def test_a_token_is_planted_twice_among_19_others_and_never_first():
    source = Source()
    test = scramble_test(on((7, 8, 9)), [0], source, VOCABULARY)
    assert test["tokens"].tolist() == [3]
    assert test["scrambles"].tolist() == [6]
    assert {len(row) for row in source.rows} == {20}
    where = [int(np.flatnonzero(np.isin(row, [7, 8, 9]))[0]) for row in source.rows]
    assert min(where) > 0
    assert len(set(where)) > 1
    assert len(set(source.rows)) == 6


def test_shares_tell_a_token_alone_from_a_token_in_context():
    test = scramble_test(on((7,), (7,), (7,)), [0, 1, 2], Source(), VOCABULARY, repeats=200)
    assert test["share"][0] == test["share_on_token"][0] == 1
    assert test["share_on_token"][1] == pytest.approx(1 / 7, abs=0.1)
    assert test["share_on_token"][2] == 0
    assert test["share"][2] == pytest.approx(1 - (69 / 70) ** 19, abs=0.1)  # anywhere
    assert test["over_90"].tolist() == [True, False, False]
    assert test["over_50"].tolist() == [True, False, False]


def test_one_scramble_serves_all_latents_that_peak_on_its_token():
    source, alone = Source(), Source()
    test = scramble_test(on((7, 8), (8, 7), (7,)), [2, 0, 1, 0], source, VOCABULARY)
    assert len(source.rows) == 4
    assert test["latent"].tolist() == [2, 0, 1, 0]
    assert test["scrambles"].tolist() == [2, 4, 4, 4]
    assert test["share"][1] == test["share"][3]
    # They depend on the token, the repeat and the seed, not on who asks.
    scramble_test(on((7,)), [0], alone, VOCABULARY)
    assert set(alone.rows) < set(source.rows)
    other = Source()
    scramble_test(on((7,)), [0], other, VOCABULARY, seed=1)
    assert not set(alone.rows) & set(other.rows)


peaks = st.lists(st.lists(st.integers(100, 130), min_size=1, max_size=6, unique=True), min_size=1)


@settings(max_examples=60, deadline=None)
@given(peaks, st.integers(0, 60), st.integers(0, 3))
def test_no_more_is_read_than_was_allowed(few, room, seed):
    source, kinds = Source(), on(*few)
    test = scramble_test(kinds, range(len(few)), source, VOCABULARY, most=room * 40, seed=seed)
    planted = {token for row in source.rows for token in row if token >= 100}
    every = {token for tokens in few for token in tokens}
    assert len(source.rows) == 2 * len(planted) <= 2 * room
    if len(every) <= room:
        assert planted == every
        assert test["tokens"].tolist() == [len(tokens) for tokens in few]
    # A token that is planted serves whoever has room for it; nobody has more than his own.
    lengths = np.array([len(tokens) for tokens in few])
    assert (test["tokens"] <= lengths).all()
    if test["tokens"].min() > 0:
        most = test["tokens"].max()
        assert (test["tokens"] == np.minimum(lengths, most)).all()
    else:
        assert test["tokens"].max() <= 1
    assert (np.isnan(test["share"]) == (test["tokens"] == 0)).all()
    assert not test["over_50"][test["tokens"] == 0].any()


def test_latents_that_share_tokens_are_tested_on_the_same():
    source = Source()
    few = [list(range(100, 120))] * 30
    test = scramble_test(on(*few), range(30), source, VOCABULARY, most=3 * 40)
    assert test["tokens"].tolist() == [3] * 30
    assert len(source.rows) == 6


def test_a_latent_of_many_tokens_cannot_be_scrambled():
    with pytest.raises(InputError, match="latent 0: the scramble test needs a latent"):
        scramble_test(on(()), [0], Source(), VOCABULARY)
    with pytest.raises(InputError, match="must not be empty"):
        scramble_test(on((7,)), [0], Source(), VOCABULARY[:0])


def test_no_latent_at_all_reads_nothing():
    source = Source()
    test = scramble_test(on((7,)), [], source, VOCABULARY)
    assert {len(column) for column in test.values()} == {0}
    assert source.rows == []


# --- a subject ---------------------------------------------------------------------------------


def coder_for(subject, n_latents=64, **declared):
    torch.manual_seed(3)
    width = subject.width
    return SparseCoder(
        encoder_weight=torch.randn(n_latents, width),
        encoder_bias=torch.zeros(n_latents),
        decoder=torch.randn(n_latents, width),
        decoder_bias=torch.zeros(width),
        rule=TopK(5),
        hookpoint=subject.hookpoint,
        declared=declared,
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return load_subject(str(save_llama(tmp_path_factory.mktemp("llama"))), "model.layers.1")


def test_batches_give_what_each_latent_alone_gives(llama):
    coder = coder_for(llama)
    rng = np.random.default_rng(0)
    few = [rng.choice(400, rng.integers(1, 8), replace=False).tolist() for _ in range(64)]
    vocabulary = np.arange(400)
    asked = rng.permutation(64)[:50]
    test = scramble_test(on(*few), asked, token_activations(llama, coder), vocabulary, seed=4)
    line = llama.tokenizer.encode("\n", add_special_tokens=False).ids
    partly = 0
    for at, latent in enumerate(asked.tolist()):
        anywhere, on_token = [], []
        for token in few[latent]:
            for repeat in range(2):
                row, place = _scramble(token, repeat, vocabulary, 19, 4)
                states = llama.hidden(np.r_[line, row][None].astype(np.int64))[0, 1:]
                latents, activations = coder.encode(states)
                active = ((latents == latent) & (activations > 0)).any(1).numpy()
                anywhere.append(active.any())
                on_token.append(active[place])
        assert test["scrambles"][at] == len(anywhere)
        assert test["share"][at] == np.mean(anywhere)
        assert test["share_on_token"][at] == np.mean(on_token)
        partly += 0 < np.mean(on_token) < 1
    assert partly > 5  # not all or nothing


def test_what_stands_before_a_corpus_text_stands_before_a_scramble(llama, tmp_path, monkeypatch):
    read = []

    def rows_of(subject, coder):
        monkeypatch.setattr(
            subject, "hidden", lambda rows, mask: read.append(rows) or real(rows, mask)
        )
        return token_activations(subject, coder)

    scramble = np.arange(100, 120, dtype=np.uint32)[None]
    real = llama.hidden
    monkeypatch.setattr(llama.model.config, "bos_token_id", 3)
    rows_of(llama, coder_for(llama, prepend_bos=True))(scramble)
    assert read[-1].tolist() == [[3, *scramble[0].tolist()]]
    rows_of(llama, coder_for(llama))(scramble)
    assert read[-1].tolist() == [
        [*llama.tokenizer.encode("\n", add_special_tokens=False).ids, *scramble[0].tolist()]
    ]
    bert = load_subject(str(save_bert(tmp_path / "bert")), "encoder.layer.0")
    real = bert.hidden
    at, offsets, _ = rows_of(bert, coder_for(bert))(scramble)
    assert read[-1].tolist() == [[2, *scramble[0].tolist(), 3]]  # [CLS] and [SEP]
    # They are read, and their activations do not count.
    assert set(at) == {0}
    assert (np.bincount(offsets) == 5).all()
    assert offsets.max() == 19


def test_a_coder_of_another_width_is_refused(llama):
    coder = coder_for(llama)
    wide = SparseCoder(
        encoder_weight=torch.randn(4, 9),
        encoder_bias=torch.zeros(4),
        decoder=coder.decoder[:4],
        decoder_bias=coder.decoder_bias,
        rule=TopK(2),
    )
    with pytest.raises(InputError, match="reads 9"):
        token_activations(llama, wide)
