"""The postings as Parquet: all of them, sorted, with what they are worth, whole or absent."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from glossator.errors import CorruptIndexError, InputError
from glossator.export import postings
from glossator.export.postings import POSTINGS, export_postings
from glossator.index import Index
from glossator.progress import reporter
from index_reference import corpus


@pytest.fixture
def plain():
    return corpus(60, window=8, windows=4, segment_contexts=25)


def rows_of(plain, index, latents):
    """What must be in the file, by brute force."""
    for latent in latents:
        for position, activation in zip(*index.postings(latent), strict=True):
            context, offset = divmod(int(position), plain.tokens.shape[1])
            document = int(plain.documents[context - plain.first_context, offset])
            yield (latent, context, offset, document, float(activation))


def rows_in(path):
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("rows", [7, 1 << 18])
def test_every_posting_is_a_row_with_its_document(plain, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(postings, "_ROWS", rows)
    monkeypatch.setattr(postings, "_TOKENS", 64)
    index = plain.index(tmp_path / "index")
    path = export_postings(index, tmp_path / "all.parquet")
    file = pq.ParquetFile(path)
    assert file.schema_arrow.equals(POSTINGS)
    assert file.metadata.num_row_groups == -(-index.nnz // rows)
    assert rows_in(path) == list(rows_of(plain, index, range(index.n_latents)))


def test_some_latents_are_written_once_each_and_in_order(plain, tmp_path):
    index = plain.index(tmp_path / "index")
    path = export_postings(index, tmp_path / "some.parquet", [4, 1, 4])
    assert rows_in(path) == list(rows_of(plain, index, [1, 4]))
    assert rows_in(export_postings(index, tmp_path / "none.parquet", [])) == []
    with pytest.raises(InputError, match="latent 5: the index has 5 latents"):
        export_postings(index, tmp_path / "more.parquet", [5])


def test_the_file_says_of_which_index_it_is_and_how_exact(plain, tmp_path):
    index = plain.index(tmp_path / "index")
    metadata = pq.read_schema(export_postings(index, tmp_path / "all.parquet")).metadata
    assert metadata[b"glossator.precision"].decode() == index.precision
    assert metadata[b"glossator.index_hash"].decode() == index.hash
    assert int(metadata[b"glossator.n_tokens"]) == index.n_tokens


def test_what_stood_there_stays_where_the_index_is_damaged(plain, tmp_path):
    path = tmp_path / "all.parquet"
    path.write_bytes(b"before")
    plain.build(tmp_path / "index")
    lists = sorted((tmp_path / "index" / "segments").rglob("lists.bin"))[-1]
    data = bytearray(lists.read_bytes())
    data[len(data) // 2] ^= 1
    lists.write_bytes(data)
    with pytest.raises(CorruptIndexError, match=r"lists\.bin"):
        export_postings(Index.open(tmp_path / "index"), path)
    assert path.read_bytes() == b"before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["all.parquet", "index"]


def test_a_path_that_cannot_be_written_is_named(plain, tmp_path):
    index = plain.index(tmp_path / "index")
    with pytest.raises(InputError, match="is a folder; name a file"):
        export_postings(index, tmp_path)
    with pytest.raises(InputError, match=r"all\.parquet: cannot be written \(No such file"):
        export_postings(index, tmp_path / "nowhere" / "all.parquet")


def test_progress_counts_the_postings(plain, tmp_path):
    index, out = plain.index(tmp_path / "index"), io.StringIO()
    export_postings(index, tmp_path / "all.parquet", progress=reporter(out))
    last = json.loads(out.getvalue().splitlines()[-1])
    assert (last["stage"], last["done"], last["total"]) == ("export", index.nnz, index.nnz)
    assert np.sum(index.counts()) == index.nnz
