"""The largest numbers that an index takes, and one above each."""

import numpy as np
import pytest

from glossator.errors import InputError
from glossator.index import Index, IndexWriter, compact, join
from index_reference import corpus, scratch_folders

MAX_LATENTS = 2**24
MAX_WINDOW = 2**16
MAX_SEGMENT = 2**27
SHAPE = {"n_latents": 3, "context_length": 8, "window": 4, "segment_contexts": 3}


@pytest.fixture
def scratch():
    with scratch_folders() as folders:
        yield folders


def refused(path, **changes):
    with pytest.raises(InputError) as caught:
        IndexWriter(path, **{**SHAPE, **changes})
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return str(caught.value)


# The last context ends at this position, or as close below it as contexts can.
@pytest.mark.parametrize("end", [2**40, 2**63, 2**64 - 8])
def test_positions_up_to_the_last_are_read_and_drawn(scratch, end):
    first = end // 8 - 10
    plain = corpus(10, n_latents=4)
    near, far = plain.index(scratch()), plain.index(scratch(), first_context=first)
    far.verify()
    shift = np.uint64(first * 8)
    for latent in range(plain.n_latents):
        found, expected = far.postings(latent), near.postings(latent)
        np.testing.assert_array_equal(found[0], expected[0] + shift)
        np.testing.assert_array_equal(found[1], expected[1])
        found, expected = far.windows(latent), near.windows(latent)
        np.testing.assert_array_equal(found[0], expected[0] + shift)
        np.testing.assert_array_equal(found[1:], expected[1:])
        np.testing.assert_array_equal(far.active(latent, found[0]), np.ones(len(found[0]), bool))
    top = far.top(np.arange(4), 9)
    np.testing.assert_array_equal(top.start, near.top(np.arange(4), 9).start + shift)
    assert int(far.postings(0)[0].max()) >= end - 8
    examples = far.sample(np.arange(4))
    assert len(examples) > 0
    assert int(examples.start.min()) >= first * 8
    assert int(examples.start.max()) <= end - plain.window
    np.testing.assert_array_equal(far.contexts([first + 9])[0][0], plain.tokens[9])


def test_a_context_beyond_the_last_position_is_refused_when_it_is_added(scratch):
    first = 2**61 - 2
    plain = corpus(1, first_context=first, n_latents=3)
    latents, activations = plain.topk()
    with IndexWriter(scratch(), **plain.parameters) as writer:
        given = (plain.tokens, latents, activations, plain.documents)
        writer.add(*given)
        with pytest.raises(InputError, match=r"positions above 2\^64"):
            writer.add(*given)
    assert "positions above 2^64" in refused(scratch(), first_context=2**61)


def test_parts_that_are_far_from_0_are_joined_and_compacted(scratch):
    first = 2**37 - 5
    whole, paths = corpus(10, first_context=first), []
    for begin, end in ((0, 4), (4, 10)):
        part = corpus(end - begin, first_context=first + begin)
        for name in ("tokens", "documents", "mask", "dense"):
            setattr(part, name, getattr(whole, name)[begin:end])
        paths.append(part.build(scratch()))
    out = scratch()
    join(paths, out)
    compact(out)
    index = Index.open(out)
    for latent in range(whole.n_latents):
        np.testing.assert_array_equal(index.postings(latent)[0], whole.postings(latent)[0])


def test_as_many_latents_as_there_may_be(tmp_path):
    ids = np.array([0, 1, MAX_LATENTS // 2, MAX_LATENTS - 1])
    latents = np.broadcast_to(ids, (2, 8, 4))
    values = np.arange(1, 65, dtype=np.float32).reshape(2, 8, 4)
    parameters = {**SHAPE, "n_latents": MAX_LATENTS}
    path = tmp_path / "index"
    with IndexWriter(path, durable=False, **parameters) as writer:
        writer.add(np.ones((2, 8), int), latents, values, [0, 1])
        with pytest.raises(InputError, match="latent 16777216 is not below `n_latents` 16777216"):
            writer.add(np.ones((1, 8), int), latents[:1] + 1, values[:1], [2])
    index = Index.open(path)
    for column, latent in enumerate(ids):
        positions, activations = index.postings(latent)
        assert positions.tolist() == list(range(16))
        np.testing.assert_allclose(activations, values[:, :, column].reshape(-1), rtol=1 / 32)
    assert len(index.postings(2)[0]) == 0
    counts = index.counts()
    assert (len(counts), counts.sum()) == (MAX_LATENTS, 64)
    text = refused(tmp_path / "none", n_latents=MAX_LATENTS + 1)
    assert text == "`n_latents` is 16777217; it must be between 1 and 16777216"


def test_windows_as_long_as_they_may_be(scratch):
    length = 2 * MAX_WINDOW
    places = np.array([0, 1, MAX_WINDOW - 1, MAX_WINDOW, length - 1])
    path = scratch()
    parameters = {"n_latents": 2, "context_length": length, "window": MAX_WINDOW}
    with IndexWriter(path, lossless=True, **parameters) as writer:
        writer.add_coo(
            np.zeros((1, length), int),
            np.zeros(5, int),
            places,
            np.ones(5, int),
            np.array([1, 3, 2, 5, 4], np.float32),
            [7],
        )
    index = Index.open(path)
    index.verify()
    assert [array.tolist() for array in index.postings(1)] == [places.tolist(), [1, 3, 2, 5, 4]]
    assert [array.tolist() for array in index.windows(1)[:2]] == [[0, MAX_WINDOW], [3, 5]]
    text = refused(scratch(), window=MAX_WINDOW + 1, context_length=MAX_WINDOW + 1)
    assert text == "`window` is 65537; it must be at most 65536"


@pytest.mark.parametrize(
    ("length", "window", "contexts"),
    [(8, 4, MAX_SEGMENT // 8), (MAX_SEGMENT, 2**16, 1), (2**16, 2**16, 2**11)],
)
def test_segments_as_long_as_they_may_be(scratch, length, window, contexts):
    parameters = {"n_latents": 2, "context_length": length, "window": window}
    with IndexWriter(scratch(), segment_contexts=contexts, **parameters) as writer:
        assert writer.next_context == 0
    path = scratch()
    with pytest.raises(
        InputError, match=r"a segment must hold between 1 context and 134217728 tokens"
    ):
        IndexWriter(path, segment_contexts=contexts + 1, **parameters)
    assert not path.exists()


def test_contexts_longer_than_a_segment_may_be_are_refused(scratch):
    parameters = {"context_length": MAX_SEGMENT + 1, "window": 1}
    assert "`segment_contexts`" in refused(scratch(), segment_contexts=1, **parameters)
    assert "`segment_contexts`" in refused(scratch(), segment_contexts=None, **parameters)
    assert "`context_length` is 4294967296" in refused(scratch(), context_length=2**32)


@pytest.mark.parametrize(
    ("token", "suffix"), [(2**16 - 1, "u16"), (2**16, "u32"), (2**32 - 1, "u32")]
)
def test_ids_as_large_as_they_may_be(scratch, token, suffix):
    document = 2**64 - 2
    path = scratch()
    with IndexWriter(path, **SHAPE) as writer:
        writer.add(
            np.full((1, 8), token, np.uint64),
            np.zeros((1, 8, 1), int),
            np.full((1, 8, 1), np.finfo(np.float32).max, np.float32),
            np.array([document], np.uint64),
        )
    assert (path / "text" / f"{0:020}" / f"tokens.{suffix}").exists()
    index = Index.open(path)
    tokens, documents, _ = index.contexts([0])
    assert set(tokens.flat) == {token}
    assert set(documents.flat) == {document}
    largest = index.postings(0)[1]
    assert np.isfinite(largest).all()
    assert largest.max() > 3.2e38
