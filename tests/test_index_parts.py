"""Other ways into an index: sorted runs, several hookpoints at once, parts that are joined."""

import itertools

import numpy as np
import pytest

from glossator.errors import InputError
from glossator.index import Index, IndexWriter, compact, join
from index_reference import corpus, folder_bytes


def runs(plain, rows):
    """The activations of some contexts, ordered by latent and then by position."""
    dense = plain.dense[rows].reshape(-1, plain.n_latents)
    latents, positions = np.nonzero(dense.T)
    starts = np.searchsorted(latents, np.arange(plain.n_latents + 1))
    return starts, positions, dense[positions, latents]


def text(plain, rows):
    return plain.documents[rows], plain.mask[rows]


def test_sorted_runs_and_token_major_batches_give_the_same_bytes(tmp_path):
    plain = corpus(12)
    whole = folder_bytes(plain.build(tmp_path / "whole"))
    with IndexWriter(tmp_path / "sorted", **plain.parameters) as writer:
        for rows in (slice(0, 5), slice(5, 6), slice(6, 12)):
            writer.add_sorted(plain.tokens[rows], *runs(plain, rows), *text(plain, rows))
    assert folder_bytes(tmp_path / "sorted") == whole


def test_several_hookpoints_share_one_text_and_say_what_single_ones_say(tmp_path):
    plain = corpus(12)
    latents, activations = plain.topk()
    parameters = {**plain.parameters, "n_latents": {"a": 5, "b": 7}}
    rows = slice(0, 12)
    with IndexWriter(tmp_path / "run", **parameters) as writer:
        with pytest.raises(InputError, match="`latents` must be a mapping with the hookpoints"):
            writer.add(plain.tokens, latents, activations, *text(plain, rows))
        writer.add(
            plain.tokens,
            {"a": latents, "b": latents},
            {"a": activations, "b": 2 * activations},
            *text(plain, rows),
        )
    single = Index.open(plain.build(tmp_path / "single"))
    a, b = (Index.open(tmp_path / "run" / name) for name in "ab")
    assert (a.attributes["hookpoint"], b.attributes["hookpoint"]) == ("a", "b")
    assert not (tmp_path / "run" / "a" / "text").exists()
    for latent in range(5):
        positions, values = single.postings(latent)
        for index, factor in ((a, 1), (b, 2)):
            np.testing.assert_array_equal(index.postings(latent)[0], positions)
            np.testing.assert_array_equal(index.postings(latent)[1], factor * values)
    for index in (a, b):
        index.verify()
        for found, expected in zip(index.contexts([3, 11]), single.contexts([3, 11]), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("cuts", [(0, 6, 12), (0, 1, 4, 11, 12)])
def test_parts_are_joined_and_compacted_to_the_bytes_of_one_build(tmp_path, cuts):
    plain = corpus(12)
    latents, activations = plain.topk()
    whole = folder_bytes(plain.build(tmp_path / "whole"))
    parts = []
    for begin, end in itertools.pairwise(cuts):
        rows, part = slice(begin, end), tmp_path / f"part {begin}"
        with IndexWriter(part, **{**plain.parameters, "first_context": begin}) as writer:
            writer.add(plain.tokens[rows], latents[rows], activations[rows], *text(plain, rows))
        parts.append(part)
    join(parts[::-1], tmp_path / "joined")
    index = Index.open(tmp_path / "joined")
    index.verify()
    for latent in range(plain.n_latents):
        np.testing.assert_array_equal(index.postings(latent)[0], plain.postings(latent)[0])
    compact(tmp_path / "joined")
    assert folder_bytes(tmp_path / "joined") == whole
    with pytest.raises(InputError, match=r"contexts 0 to .* are in two parts"):
        join([parts[0], *parts], tmp_path / "twice")
