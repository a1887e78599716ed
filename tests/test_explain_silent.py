"""Silent windows of the explain side: silent throughout, never the scorer's; hard ones first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.errors import InputError
from glossator.explain.silent import SilentWindows
from glossator.index import document_sides
from glossator.neighbours import Neighbours
from index_reference import corpus, scratch_folders
from stop_world import DOCUMENTS, WINDOW, documents_in, stop_index


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return stop_index(tmp_path_factory.mktemp("stop") / "index")


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1_000),
    st.integers(1, 8),
    st.sampled_from([0, 5]),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_what_is_drawn_is_silent_on_the_explain_side_and_different(
    seed, length, first_context, hard, easy
):
    plain = corpus(24, seed=seed, first_context=first_context)
    plain.tokens %= 40
    plain.dense[:, :, 0] *= np.random.default_rng(seed).random((24, 8)) < 0.2
    dense = plain.dense.reshape(-1, plain.n_latents)
    unfit = ~plain.eligible() | (plain.sides() != 0)
    with scratch_folders() as folder:
        index = plain.index(folder())
        silent = SilentWindows(index, length, seed)
        for latent in range(plain.n_latents):
            starts = silent.draw(latent, [3, 17], hard=hard, easy=easy)
            assert len(set(starts.tolist())) == len(starts) <= hard + easy
            for start in starts.tolist():
                at = start - first_context * 8
                assert at // 8 == (at + length - 1) // 8
                assert not dense[at : at + length, latent].any()
                assert not unfit[at // 4 : (at + length - 1) // 4 + 1].any()
            again = SilentWindows(index, length, seed).draw(latent, [3, 17], hard=hard, easy=easy)
            assert (again == starts).all()


def test_all_that_there_are_are_found_where_few_are(world):
    index, _ = world
    silent = SilentWindows(index, None, 0)
    assert len(silent.draw(2, [], hard=5, easy=5)) == 0
    plain = corpus(16, seed=3)
    fit = plain.eligible() & (plain.sides() == 0)
    with scratch_folders() as folder:
        index = plain.index(folder())
        for latent in range(plain.n_latents):
            quiet = ~plain.dense[:, :, latent].reshape(-1, 4).any(axis=1)
            starts = SilentWindows(index, None, 0).draw(latent, [], hard=0, easy=100)
            assert sorted(starts.tolist()) == (np.flatnonzero(fit & quiet) * 4).tolist()


def test_hard_windows_hold_a_peaks_token_and_easy_ones_need_not(world):
    index, text = world
    stop = text.tokenizer.token_to_id("stop")
    starts = SilentWindows(index, None, 0).draw(0, [stop], hard=30, easy=30)
    assert len(starts) == 60
    tokens, _, _ = index.contexts(starts // np.uint64(index.context_length))
    offsets = (starts % np.uint64(index.context_length)).astype(int)
    holds = [
        stop in row[at : at + WINDOW].tolist() for row, at in zip(tokens, offsets, strict=True)
    ]
    assert all(holds[:30])
    assert sum(holds[30:]) < 15


@pytest.mark.parametrize("length", [5, 16, 40])
def test_a_stretch_of_another_length_holds_the_token_too(world, length):
    index, text = world
    stop = text.tokenizer.token_to_id("stop")
    starts = SilentWindows(index, length, 0).draw(0, [stop], hard=10, easy=0)
    assert len(starts) == 10
    tokens, documents, _ = index.contexts(starts // np.uint64(index.context_length))
    for row, start in enumerate(starts.tolist()):
        at = start % index.context_length
        assert stop in tokens[row, at : at + length].tolist()
        assert not index.activations(0, [start], length).any()
        assert (document_sides(documents[row, at : at + length]) == 0).all()


def test_windows_of_neighbours_are_hard_and_those_with_the_latent_left_out(world):
    index, _ = world
    ids = np.full((4, 1), 2**32 - 1, np.uint32)
    ids[1, 0] = 0
    near = Neighbours(ids, np.ones((4, 1), np.float32))
    starts = SilentWindows(index, None, 0, near).draw(1, [], hard=4, easy=0)
    assert len(starts) == 4
    assert index.active(0, starts).all()
    assert not index.active(1, starts).any()


def test_neighbours_of_another_coder_are_refused(tmp_path):
    plain = corpus(4)
    with_hash = {**plain.parameters["attributes"], "coder_hash": "ours"}
    index = plain.index(tmp_path / "index", attributes=with_hash)
    near = Neighbours(
        np.zeros((5, 1), np.uint32), np.ones((5, 1), np.float32), coder_hash="another"
    )
    with pytest.raises(InputError, match="of coder another"):
        SilentWindows(index, None, 0, near)


def test_no_more_than_a_bounded_part_of_the_corpus_is_read(world, monkeypatch):
    from glossator.explain import silent as module

    index, text = world
    stop = text.tokenizer.token_to_id("stop")
    monkeypatch.setattr(module, "_POOL", 20 * index.context_length)
    silent = SilentWindows(index, None, 0)
    tokens, positions = silent._by_token
    assert len(tokens) == len(positions) == 20 * index.context_length
    assert len(set((positions // index.context_length).tolist())) == 20
    assert len(silent.draw(0, [stop], hard=20, easy=0)) == 20


def test_the_worlds_documents_are_named_in_their_windows(world):
    index, text = world
    tokens, documents, _ = index.contexts([0, DOCUMENTS - 1])
    for row, document in zip(tokens, documents, strict=True):
        assert documents_in(" ".join(text.pieces(row))) == set(document.tolist())
