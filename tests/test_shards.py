"""Shards of a corpus, encoded apart, are joined to the bytes of one build; none can be missing."""

import functools
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glossator.corpus import Census, Contexts
from glossator.errors import InputError
from glossator.index import Index, IndexWriter
from glossator.shards import Shard, join_shards, parse_shard, read_shard
from index_reference import corpus, folder_bytes


def _census(contexts, length=8, digest="c"):
    return Census(contexts, length, contexts * length, 1, digest, ())


class _Source:
    """The contexts of a plain index."""

    def __init__(self, plain):
        self.plain = plain
        self.context_length = plain.tokens.shape[1]

    def batches(self, start=0, size=64):
        for begin in range(start, len(self.plain.tokens), size):
            rows = slice(begin, begin + size)
            yield Contexts(
                *(x[rows] for x in (self.plain.tokens, self.plain.documents, self.plain.mask))
            )

    def census(self):
        return _census(len(self.plain.tokens), self.context_length)


def _harvest(plain, shard, folder, *, until=None, names=None):
    """What a process does for its shard; `until` so many contexts are done."""
    shard.write(folder)
    latents, activations = plain.topk()
    settings = {
        **plain.parameters,
        "first_context": shard.first_context,
        "attributes": {"corpus_hash": shard.corpus_hash, **({} if names else {"hookpoint": "h.0"})},
    }
    if names:
        settings["n_latents"] = dict.fromkeys(names, plain.n_latents)
    writer = IndexWriter(folder / "index", **settings, durable=False)
    at = shard.first_context
    for batch in shard.batches(_Source(plain), at, size=2):
        if until is not None and at >= shard.first_context + until:
            writer.abandon()
            return
        rows = slice(at, at + len(batch))
        ids, values = latents[rows], activations[rows]
        if names:
            ids, values = dict.fromkeys(names, ids), dict.fromkeys(names, values)
        writer.add(batch.tokens, ids, values, batch.document_ids, batch.mask, context=at)
        at += len(batch)
    writer.finish()


def _shards(plain, of):
    census = _Source(plain).census()
    return [
        Shard.of(census, number=n, shards=of, segment_contexts=plain.segment_contexts)
        for n in range(of)
    ]


@functools.cache
def _plain():
    return corpus(14)  # segments of 3 contexts: five, the last partial


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 60))
def test_shards_cover_every_context_once_and_are_cut_at_segments(contexts, of, segment):
    shards = [
        Shard.of(_census(contexts), number=n, shards=of, segment_contexts=segment)
        for n in range(of)
    ]
    covered = [c for shard in shards for c in range(shard.first_context, shard.end_context)]
    assert covered == list(range(contexts))
    segments = -(-contexts // segment)
    if segments >= of:
        assert all(shard.first_context % segment == 0 for shard in shards)
        each = [-(-shard.n_contexts // segment) for shard in shards]
    else:
        each = [shard.n_contexts for shard in shards]
    assert max(each) - min(each) <= 1


def test_segments_are_those_that_a_writer_chooses(tmp_path):
    with IndexWriter(tmp_path / "i", n_latents=1, context_length=96, window=32) as writer:
        writer.add(
            np.zeros((1, 96), int), np.zeros((1, 96, 1), int), np.ones((1, 96, 1), "f4"), [1]
        )
    chosen = Index.open(tmp_path / "i").describe()["segment_contexts"]
    assert Shard.of(_census(9, 96), number=0, shards=1).segment_contexts == chosen


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_a_shard_reads_its_own_contexts_from_wherever_it_was(size):
    plain = _plain()
    for shard in _shards(plain, 3):
        for start in range(shard.first_context, shard.end_context + 1):
            batches = list(shard.batches(_Source(plain), start, size))
            got = [row.tolist() for batch in batches for row in batch.tokens]
            assert got == plain.tokens[start : shard.end_context].tolist()
            assert all(len(batch.mask) == len(batch) <= size for batch in batches)


@pytest.mark.parametrize("of", [1, 2, 3, 5, 8, 20])
def test_joined_shards_are_the_bytes_of_one_undisturbed_build(tmp_path, of):
    plain = _plain()
    (whole,) = _shards(plain, 1)
    _harvest(plain, whole, tmp_path / "whole")
    folders = []
    for shard in _shards(plain, of):
        if shard.n_contexts:
            folders.append(tmp_path / f"{shard.number}")
            if shard.number == 1:
                _harvest(plain, shard, folders[-1], until=2)  # killed, and run again
            _harvest(plain, shard, folders[-1])
    assert len(folders) == min(of, 14)
    join_shards(folders[::-1], tmp_path / "out", durable=False)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "whole" / "index")
    Index.open(tmp_path / "out").verify()
    # Once more changes nothing, though shards are gone that the index no longer needs.
    shutil.rmtree(folders[-1] / "index")
    join_shards(folders, tmp_path / "out", durable=False)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "whole" / "index")


def test_several_hookpoints_are_joined_each(tmp_path):
    plain = _plain()
    names = ("h.0", "h.1.mlp:in")
    (whole,) = _shards(plain, 1)
    _harvest(plain, whole, tmp_path / "whole", names=names)
    folders = [tmp_path / f"{n}" for n in range(2)]
    for shard, folder in zip(_shards(plain, 2), folders, strict=True):
        _harvest(plain, shard, folder, names=names)
    join_shards(folders, tmp_path / "out", durable=False)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "whole" / "index")


def test_what_is_missing_twice_unfinished_or_anothers_is_named(tmp_path):
    plain = _plain()
    shards, folders = _shards(plain, 4), [tmp_path / f"{n}" for n in range(4)]
    for shard, folder in zip(shards, folders, strict=True):
        _harvest(plain, shard, folder)
    with pytest.raises(InputError, match=r"of 4 shards these are missing: 0, 3; run .*--shard 0/4"):
        join_shards(folders[1:3], tmp_path / "out")
    shutil.copytree(folders[2], tmp_path / "again")
    with pytest.raises(InputError, match="shard 2 of 4 is in two folders"):
        join_shards([*folders, tmp_path / "again"], tmp_path / "out")
    shutil.rmtree(folders[2])
    _harvest(plain, shards[2], folders[2], until=2)
    with pytest.raises(InputError, match=r"2/index`: not finished, contexts .*--shard 2/4"):
        join_shards(folders, tmp_path / "out")
    shutil.rmtree(folders[2] / "index")
    with pytest.raises(InputError, match="holds no index"):
        join_shards(folders, tmp_path / "out")
    shutil.copytree(folders[1] / "index", folders[2] / "index")
    with pytest.raises(InputError, match="but shard 2 of 4 is"):
        join_shards(folders, tmp_path / "out")
    other = Shard.of(_census(14, digest="d"), number=2, shards=4, segment_contexts=3)
    with pytest.raises(InputError, match="holds shard 2 of 4 of 14 contexts; name another"):
        other.write(folders[2])
    (folders[2] / "shard.json").unlink()
    other.write(folders[2])
    with pytest.raises(InputError, match="of another corpus, another number"):
        join_shards(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no shards to join"):
        join_shards([], tmp_path / "out")
    with pytest.raises(InputError, match=r"nowhere.*is it a shard's folder"):
        join_shards([tmp_path / "nowhere"], tmp_path / "out")
    (folders[2] / "shard.json").write_text('{"number": 1}')
    with pytest.raises(InputError, match=r"shard\.json`: not readable"):
        read_shard(folders[2])


def test_a_shards_number_is_read_from_its_option():
    assert parse_shard("0/8") == (0, 8)
    assert parse_shard("7/8") == (7, 8)
    for text in ("8/8", "1", "a/b", "-1/2", "0/0", ""):
        with pytest.raises(InputError, match="from `0/8` to `7/8`"):
            parse_shard(text)
    with pytest.raises(InputError, match=r"shard 4/4: .*from 0 to 3"):
        Shard.of(_census(9), number=4, shards=4)
