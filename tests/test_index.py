"""The index equals a plain NumPy one, whatever the text, the batches and the segments."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.index import NO_LATENT, Index, IndexWriter, document_sides
from index_reference import (
    bf16_of,
    corpora,
    corpus,
    folder_bytes,
    scratch_folders,
    side_of,
    value_of,
)

FEW = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def scratch():
    with scratch_folders() as folders:
        yield folders


@FEW
@given(corpora())
def test_postings_counts_and_text_are_those_that_were_added(scratch, plain):
    index = plain.index(scratch())
    kept = plain.kept()
    np.testing.assert_array_equal(index.counts(), (kept > 0).sum(axis=0))
    assert index.counts().dtype == np.uint64
    assert index.nnz == (kept > 0).sum()
    assert index.n_tokens == plain.mask.sum()
    assert index.n_contexts == len(plain.tokens)
    for latent in range(plain.n_latents):
        positions, activations = index.postings(latent)
        expected = plain.postings(latent)
        np.testing.assert_array_equal(positions, expected[0])
        np.testing.assert_array_equal(activations, expected[1])
        assert (positions.dtype, activations.dtype) == (np.uint64, np.float32)
    ids = plain.first_context + np.arange(len(plain.tokens))[::-1]
    tokens, documents, mask = index.contexts(ids)
    np.testing.assert_array_equal(tokens, plain.tokens[::-1])
    np.testing.assert_array_equal(documents, plain.documents[::-1])
    np.testing.assert_array_equal(mask, plain.mask[::-1])
    index.verify()


@FEW
@given(corpora())
def test_a_lossless_index_gives_the_nearest_bfloat16(scratch, plain):
    index = plain.index(scratch(), lossless=True)
    assert index.precision == "bf16"
    kept = value_of(plain.bf16())
    for latent in range(plain.n_latents):
        positions, activations = index.postings(latent)
        np.testing.assert_array_equal(positions, plain.postings(latent)[0])
        np.testing.assert_array_equal(activations, kept[positions - np.uint64(plain.base), latent])
        starts, maxima, deciles = index.windows(latent)
        expected = plain.windows(latent)
        np.testing.assert_array_equal(starts, expected[0])
        np.testing.assert_array_equal(maxima, plain.exact(latent))
        np.testing.assert_array_equal(deciles, expected[2])


def test_activations_of_any_size_come_back_within_one_part_in_32(scratch):
    rng = np.random.default_rng(0)
    plain = corpus(40, windows=64, n_latents=4)
    normal = rng.integers(0x80_0000, 0x7F7F_8000, plain.dense.shape, dtype=np.uint32)
    plain.dense = normal.view(np.float32)
    codes, exact = plain.index(scratch()), plain.index(scratch(), lossless=True)
    assert codes.precision == "code, 1/32"
    given = plain.dense.reshape(-1, 4).astype(np.float64)
    for latent in range(4):
        relative = codes.postings(latent)[1] / given[:, latent] - 1
        assert 0.02 < np.abs(relative).max() <= 1 / 32
        bf16 = value_of(bf16_of(plain.dense.reshape(-1, 4)[:, latent]))
        np.testing.assert_array_equal(exact.postings(latent)[1], bf16)


@FEW
@given(corpora())
def test_windows_and_deciles_equal_the_plain_ones(scratch, plain):
    index = plain.index(scratch())
    boundaries = index.deciles()
    assert boundaries.shape == (plain.n_latents, 11)
    for latent in range(plain.n_latents):
        found, expected = index.windows(latent), plain.windows(latent)
        for got, wanted in zip(found, expected[:3], strict=True):
            np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(boundaries[latent], plain.boundaries(latent))


@FEW
@given(corpora())
def test_sides_eligibility_and_summary_equal_the_plain_ones(scratch, plain):
    index = plain.index(scratch())
    sides, eligible = plain.sides(), plain.eligible()
    np.testing.assert_array_equal(index.sides(), sides)
    np.testing.assert_array_equal(index.eligible(), eligible)
    score = sides == 1
    share = (score & ~eligible).sum() / score.sum() if score.any() else 0.0
    assert index.overlap_share() == pytest.approx(share)
    summary = index.summary()
    documents, kept = plain.documents.reshape(-1), plain.kept()
    scoring = score & eligible
    for latent in range(plain.n_latents):
        *_, numbers = plain.windows(latent)
        active = np.flatnonzero(kept[:, latent] > 0)
        scored = active[scoring[active // plain.window]]
        expected = {
            "count": len(active),
            "windows": len(numbers),
            "windows_explain": (sides[numbers] == 0).sum(),
            "windows_scoring": scoring[numbers].sum(),
            "documents": len(set(documents[active])),
            "documents_explain": len(set(documents[active[sides[active // plain.window] == 0]])),
            "documents_scoring": len(set(documents[scored])),
            "max_activation": kept[:, latent].max(initial=0),
        }
        assert {name: values[latent] for name, values in summary.items()} == expected


@FEW
@given(corpora(), st.data())
def test_activations_of_any_stretch_within_a_context(scratch, plain, data):
    index = plain.index(scratch())
    contexts, length = plain.tokens.shape
    if not contexts:
        return
    size = data.draw(st.integers(0, length))
    pairs = st.tuples(st.integers(0, contexts - 1), st.integers(0, length - max(size, 1)))
    drawn = np.array(data.draw(st.lists(pairs, max_size=5)), np.int64).reshape(-1, 2)
    places = drawn[:, 0] * length + drawn[:, 1]
    for latent in range(plain.n_latents):
        found = index.activations(latent, places + plain.base, size)
        expected = plain.kept()[places[:, None] + np.arange(size), latent]
        np.testing.assert_array_equal(found, expected)


@FEW
@given(corpora(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_bytes_do_not_depend_on_the_batches(scratch, plain, batches):
    whole = folder_bytes(plain.build(scratch()))
    assert folder_bytes(plain.build(scratch(), batches)) == whole


@FEW
@given(corpora())
def test_entries_one_by_one_give_the_bytes_of_rows_of_entries(scratch, plain):
    whole = folder_bytes(plain.build(scratch()))
    rows, offsets, latents = np.nonzero(plain.dense)
    order = np.random.default_rng(0).permutation(len(rows))
    path = scratch()
    with IndexWriter(path, **plain.parameters) as writer:
        writer.add_coo(
            plain.tokens,
            rows[order],
            offsets[order],
            latents[order],
            plain.dense[rows, offsets, latents][order],
            plain.documents,
            plain.mask,
        )
    assert folder_bytes(path) == whole


def test_segments_are_cut_at_multiples_of_their_length_from_context_0(tmp_path):
    plain = corpus(12, first_context=4, segment_contexts=5)
    plain.build(tmp_path / "index")
    names = sorted(folder.name for folder in (tmp_path / "index" / "segments").iterdir())
    assert [int(name) for name in names] == [4, 5, 10, 15]


@pytest.mark.parametrize("segment_contexts", [12, 6, 2])
def test_what_is_read_does_not_depend_on_the_segments(tmp_path, segment_contexts):
    plain = corpus(12)
    one = plain.index(tmp_path / "one", segment_contexts=100)
    more = plain.index(tmp_path / "more", segment_contexts=segment_contexts)
    np.testing.assert_array_equal(one.deciles(), more.deciles())
    for latent in range(plain.n_latents):
        for a, b in zip(one.windows(latent), more.windows(latent), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("ids", [np.int8, np.uint8, np.int16, np.int64, np.uint64])
def test_any_integer_ids_and_either_float_give_the_same_bytes(tmp_path, dtype, ids):
    plain = corpus(4, tokens=np.arange(32).reshape(4, 8) % 50)
    latents = np.broadcast_to(np.arange(5), plain.dense.shape)
    values = plain.dense.astype(np.float16)
    plain.dense = values.astype(np.float32)
    plain.build(tmp_path / "plain")
    with IndexWriter(tmp_path / "index", **plain.parameters) as writer:
        writer.add(
            plain.tokens.astype(ids),
            latents.astype(ids),
            values.astype(dtype),
            np.arange(4, dtype=ids),
        )
    assert folder_bytes(tmp_path / "index") == folder_bytes(tmp_path / "plain")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_torch_tensors_give_the_bytes_of_arrays(tmp_path, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    plain = corpus(4)
    latents, activations = plain.topk()
    tensor = torch.tensor(activations).to(getattr(torch, dtype))
    plain.dense = torch.tensor(plain.dense).to(getattr(torch, dtype)).float().numpy()
    plain.build(tmp_path / "plain")
    with IndexWriter(tmp_path / "index", **plain.parameters) as writer:
        writer.add(
            torch.tensor(plain.tokens),
            torch.tensor(latents.astype(np.int64)),
            tensor.requires_grad_(),
            torch.tensor(plain.documents.astype(np.int64)),
            torch.tensor(plain.mask),
        )
    assert folder_bytes(tmp_path / "index") == folder_bytes(tmp_path / "plain")


def test_arrays_that_are_not_contiguous_are_read_as_they_look(tmp_path):
    plain = corpus(4)
    plain.build(tmp_path / "plain")
    latents, activations = plain.topk()
    with IndexWriter(tmp_path / "index", **plain.parameters) as writer:
        writer.add(
            np.asfortranarray(plain.tokens),
            np.asfortranarray(latents),
            np.asfortranarray(activations),
            np.repeat(plain.documents, 2, axis=1)[:, ::2],
            np.asfortranarray(plain.mask),
        )
    assert folder_bytes(tmp_path / "index") == folder_bytes(tmp_path / "plain")


def test_masked_positions_and_empty_slots_are_not_looked_at(tmp_path):
    latents = np.array([[[0, NO_LATENT], [-1, 2**40], [1, 0], [NO_LATENT, NO_LATENT]]])
    activations = np.array([[[1, np.nan], [np.inf, -1], [2, 0], [-1, np.inf]]], np.float32)
    mask = np.array([[True, False, True, True]])
    parameters = {"n_latents": 2, "context_length": 4, "window": 4}
    with IndexWriter(tmp_path / "index", **parameters) as writer:
        writer.add([[1, 2, 3, 4]], latents, activations, [7], mask)
    index = Index.open(tmp_path / "index")
    assert index.counts().tolist() == [1, 1]
    assert index.n_tokens == 3
    assert index.postings(1)[0].tolist() == [2]


def test_an_index_without_contexts_answers(tmp_path):
    with IndexWriter(tmp_path / "index", n_latents=3, context_length=32):
        pass
    index = Index.open(tmp_path / "index")
    assert (index.n_contexts, index.n_tokens, index.nnz) == (0, 0, 0)
    assert np.isnan(index.deciles()).all()
    assert index.overlap_share() == 0
    assert len(index.sides()) == 0
    assert len(index.sample([0, 1, 2])) == 0


def test_attributes_parameters_and_defaults_are_kept(tmp_path):
    attributes = {"hookpoint": "model.layers.5", "subject": "ü"}
    with IndexWriter(tmp_path / "i", n_latents=3, context_length=64, attributes=attributes):
        pass
    index = Index.open(tmp_path / "i")
    assert index.attributes == attributes
    assert (index.window, index.split_seed, index.first_context) == (32, 0, 0)
    assert (index.n_latents, index.context_length, index.complete) == (3, 64, True)


def test_the_hash_tells_content_apart(tmp_path):
    hashes = [
        corpus(6, seed=seed).index(tmp_path / str(i)).hash for i, seed in enumerate([0, 0, 1])
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_index_is_pickled_by_its_path(tmp_path):
    plain = corpus(6)
    index = pickle.loads(pickle.dumps(plain.index(tmp_path / "index")))
    np.testing.assert_array_equal(index.counts(), (plain.kept() > 0).sum(axis=0))


def test_document_sides_are_those_of_the_hash_and_half_and_half():
    ids = np.arange(4000)
    for seed in (0, 1, 2**64 - 1):
        sides = document_sides(ids, seed)
        assert sides.tolist() == [side_of(d, seed) for d in ids]
        assert 0.46 < sides.mean() < 0.54
    assert document_sides([2**64 - 1]).shape == (1,)
