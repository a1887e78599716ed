"""An index in one piece, joined of parts, added to, compacted: same answers, same bytes."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.index import Index, IndexWriter, compact, join
from index_answers import answers
from index_reference import corpora, corpus, folder_bytes, scratch_folders

FEW = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def scratch():
    with scratch_folders() as folders:
        yield folders


def add(writer, plain, begin, end):
    latents, activations = plain.topk()
    given = (plain.tokens, latents, activations, plain.documents, plain.mask)
    first = plain.first_context + begin
    writer.add(*(array[begin:end] for array in given), context=first)


def part(plain, path, begin, end, **changes):
    first = plain.first_context + begin
    parameters = {**plain.parameters, "first_context": first, "durable": False, **changes}
    with IndexWriter(path, **parameters) as writer:
        add(writer, plain, begin, end)
    return path


def in_parts(plain, scratch, cuts, **changes):
    edges = sorted({0, *cuts, len(plain.tokens)})
    paths = [part(plain, scratch(), *pair, **changes) for pair in pairwise(edges)]
    out = scratch()
    join(paths[::-1], out, durable=False)
    return out


def in_steps(plain, path, cuts, **changes):
    """Added to after it was finished, at each cut."""
    edges = sorted({0, *cuts, len(plain.tokens)})
    for begin, end in pairwise(edges):
        with IndexWriter(path, durable=False, **{**plain.parameters, **changes}) as writer:
            add(writer, plain, begin, end)
    return path


def segments(path):
    """The files of the segments, and when each was last changed."""
    files = [*(path / "segments").rglob("*"), *(path / "text").rglob("*")]
    return {file: file.stat().st_mtime_ns for file in files if file.is_file()}


def check_alike(whole, other, expected):
    assert answers(Index.open(other)) == expected
    Index.open(other).verify()
    compact(other, durable=False)
    assert folder_bytes(other) == folder_bytes(whole)


@FEW
@given(corpora(), st.lists(st.integers(1, 7), max_size=4), st.booleans())
def test_parts_and_steps_say_what_one_build_says(scratch, plain, cuts, lossless):
    n = len(plain.tokens)
    if n == 0:
        return
    cuts = [cut for cut in cuts if cut < n]
    whole = plain.build(scratch(), durable=False, lossless=lossless)
    expected = answers(Index.open(whole))
    check_alike(whole, in_parts(plain, scratch, cuts, lossless=lossless), expected)
    check_alike(whole, in_steps(plain, scratch(), cuts, lossless=lossless), expected)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("cuts", [(300,), (150, 450), (1, 299, 301, 555, 598, 599)])
def test_many_strong_windows_keep_their_order_over_any_cuts(scratch, cuts, lossless):
    # More than the 200 strongest of a side, in ties and close to one another.
    plain = corpus(600, windows=4, n_latents=3, segment_contexts=300)
    rng = np.random.default_rng(0)
    plain.dense = 1 + rng.integers(0, 40, plain.dense.shape).astype(np.float32) / 128
    plain.dense[rng.random(plain.dense.shape) < 0.5] = 0
    whole = plain.build(scratch(), durable=False, lossless=lossless)
    expected = answers(Index.open(whole))
    check_alike(whole, in_parts(plain, scratch, cuts, lossless=lossless), expected)
    check_alike(whole, in_steps(plain, scratch(), cuts, lossless=lossless), expected)


def test_adding_to_a_finished_index_leaves_its_segments_as_they_are(scratch):
    plain = corpus(11, segment_contexts=4)
    path = part(plain, scratch(), 0, 6)
    index, expected = Index.open(path), answers(Index.open(path))
    before = segments(path)
    with IndexWriter(path, durable=False, **plain.parameters) as writer:
        add(writer, plain, 6, 11)
    after = segments(path)
    assert before.items() < after.items()
    # Who has it open reads what it was.
    assert answers(index) == expected
    assert answers(Index.open(path)) == answers(plain.index(scratch()))


def test_parts_stay_as_they_are_and_may_go(scratch):
    plain = corpus(12, segment_contexts=4)
    whole = plain.build(scratch())
    one, other, out = part(plain, scratch(), 0, 5), part(plain, scratch(), 5, 12), scratch()
    before = folder_bytes(one), folder_bytes(other)
    join([one, other], out)
    compact(out)
    assert (folder_bytes(one), folder_bytes(other)) == before
    shutil.rmtree(one)
    shutil.rmtree(other)
    Index.open(out).verify()
    assert folder_bytes(out) == folder_bytes(whole)


def test_what_is_open_while_it_is_compacted_says_what_it_said(scratch):
    plain = corpus(12, segment_contexts=4)
    path = in_steps(plain, scratch(), (1, 2, 3, 5, 7))
    expected = answers(Index.open(path))
    before = Index.open(path)
    touched = Index.open(path)
    assert answers(touched) == expected
    compact(path)
    assert answers(before) == answers(touched) == answers(Index.open(path)) == expected
