"""`glossator neighbours`: what it prints and writes, and what it refuses, in one line."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from glossator.coders import SparseCoder, sparsify
from glossator.encode import TopK
from glossator.index import Index, IndexWriter
from glossator.neighbours import RELATIONS, Neighbours, neighbours
from tiny_runs import command

L, WIDTH = 24, 8


def rows_of(seed=0, n=L):
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


@pytest.fixture
def coder(tmp_path):
    """A coder in a folder, with one row of zeros."""
    rows = torch.from_numpy(rows_of())
    rows[5] = 0
    made = SparseCoder(
        rows.clone(), torch.zeros(L), rows, torch.zeros(WIDTH), rule=TopK(4), hookpoint="h.0"
    )
    folder = tmp_path / "saes" / "h.0"
    folder.mkdir(parents=True)
    sparsify.fill(made, folder)
    return folder, made


def index_at(path, attributes, n_latents=L):
    """Latents 0 and 1 are always active together, 2 on its own."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 99, (64, 64))
    latents = np.full((64, 64, 2), 0xFFFFFFFF, np.uint32)
    activations = np.zeros((64, 64, 2), np.float32)
    latents[::2, 3] = [0, 1]
    activations[::2, 3] = 1
    latents[1::2, 9, 0] = 2
    activations[1::2, 9, 0] = 1
    with IndexWriter(
        path, n_latents=n_latents, context_length=64, attributes=attributes, durable=False
    ) as writer:
        writer.add(tokens, latents, activations, np.arange(64))
    return path


def ok(*arguments):
    done = command("neighbours", *arguments)
    assert done.code == 0, done.err
    assert done.stages == ["neighbours"]
    return done


def refused(*arguments):
    done = command("neighbours", *arguments)
    assert done.code == 2, (done.out, done.err)
    assert not done.out
    return done.error


ZEROS = "`decoder`: 1 of 24 rows are zeros and have no neighbours (5)"


def test_a_summary_says_how_near_the_nearest_are(coder):
    folder, made = coder
    said = ok(folder, "-k", "3").words
    with pytest.warns(UserWarning, match="zeros"):
        _, cosines = neighbours(made, k=3)
    low, middle, high = np.nanpercentile(cosines[:, 0], [25, 50, 75])
    assert said == (
        f"latents 24, 23 with neighbours nearest median cosine {middle:.3f}, quartiles {low:.3f} "
        f"and {high:.3f} pairs 69, up to 3 for each latent {ZEROS}"
    )


def test_every_form_of_a_decoder_gives_the_same_file(coder, tmp_path):
    folder, made = coder
    rows = made.decoder.numpy()
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "columns.npy", rows.T)
    save_file({"W_dec": made.decoder.clone(), "b": torch.zeros(3)}, tmp_path / "one.safetensors")
    save_file(
        {"a": torch.zeros(2, 2), "W": made.decoder.T.bfloat16().contiguous()},
        tmp_path / "two.safetensors",
    )
    found = {}
    for name, arguments in {
        "coder": [folder],
        "above": [folder.parent],
        "npy": [tmp_path / "rows.npy"],
        "turned": [tmp_path / "columns.npy", "--transpose"],
        "safetensors": [tmp_path / "one.safetensors"],
        "named": [tmp_path / "one.safetensors", "--tensor", "W_dec"],
        "half": [tmp_path / "two.safetensors", "--tensor", "W", "--transpose"],
    }.items():
        out = tmp_path / f"{name}.parquet"
        assert ok(*arguments, "-k", "4", "--out", out).out == f"{ZEROS}\n{out}\n"
        found[name] = Neighbours.read(out)
    assert found["coder"].coder_hash == found["above"].coder_hash == made.hash
    assert found["npy"].coder_hash == ""
    for name in set(found) - {"half"}:
        np.testing.assert_array_equal(found[name].ids, found["coder"].ids)
        np.testing.assert_array_equal(found[name].cosines, found["coder"].cosines)
    np.testing.assert_allclose(found["half"].cosines, found["coder"].cosines, atol=0.02)


def test_an_index_adds_coactivation_and_relations(coder, tmp_path):
    folder, made = coder
    index = index_at(tmp_path / "index", {"hookpoint": "h.0", "coder_hash": made.hash})
    out = tmp_path / "near.parquet"
    said = ok(folder, "-k", "23", "--index", index, "--out", out, "--latents", "0").out
    lines = [line.split() for line in said.splitlines()]
    assert lines[0] == [
        *("latent", "rank", "neighbour", "cosine", "both", "jaccard", "npmi", "given"),
        *("given_back", "shared_tokens", "relation"),
    ]
    (together,) = [line for line in lines[1:] if line[2:3] == ["1"] and len(line) == 11]
    assert together[4:9] == ["32", "1.000", "1.000", "1.000", "1.000"]
    assert together[10] == "parent"
    near = Neighbours.read(out)
    assert near.index_hash == Index.open(index).hash
    assert int((near.relation == RELATIONS.index("parent")).sum()) == 2
    summary = ok(folder, "-k", "23", "--index", index).words
    assert "parent 2 child 0" in summary


def test_two_coders_are_matched(coder, tmp_path):
    folder, made = coder
    order = np.random.default_rng(3).permutation(L)
    np.save(tmp_path / "other.npy", made.decoder.numpy()[order])
    out = tmp_path / "match.parquet"
    done = ok(folder, tmp_path / "other.npy", "-k", "1", "--out", out)
    assert done.out.splitlines()[0] == ZEROS
    table = pq.read_table(out)
    for row in table.to_pylist():
        assert order[row["neighbour"]] == row["latent"]
    facts = table.schema.metadata
    assert facts[b"glossator.coder_hash"].decode() == made.hash
    assert facts[b"glossator.other_hash"] == b""


def test_a_table_shows_the_latents_that_are_named(tmp_path):
    np.save(tmp_path / "rows.npy", rows_of())
    lines = ok(tmp_path / "rows.npy", "-k", "2", "--latents", "17,3-4").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [latent, rank] for latent in ("17", "3", "4") for rank in ("1", "2")
    ]


def test_what_cannot_be_is_refused_in_one_line(coder, tmp_path):
    folder, _ = coder
    rows = tmp_path / "rows.npy"
    np.save(rows, rows_of())
    bad = rows_of()
    bad[7, 1] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    np.save(tmp_path / "wide.npy", np.zeros((9, 3), np.float32))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(3, 2)}, tmp_path / "several.safetensors")
    other = index_at(tmp_path / "other", {"coder_hash": "f" * 32})
    small = index_at(tmp_path / "small", {}, n_latents=3)
    index = index_at(tmp_path / "index", {})
    for arguments, said in (
        ([rows, "-k", "24"], "`k` is 24; each row has at most 23 neighbours"),
        ([rows, "-k", "0"], "`k` is 0"),
        ([tmp_path / "nan.npy"], "row 7"),
        ([rows, tmp_path / "wide.npy"], "`other` has rows of 3 numbers, `decoder` of 8"),
        ([tmp_path / "nowhere.npy"], "nowhere.npy: cannot be read"),
        ([tmp_path / "text.npy"], "text.npy: cannot be read"),
        ([tmp_path / "text.safetensors"], "text.safetensors: cannot be read"),
        ([tmp_path / "several.safetensors"], "name one with --tensor; its matrices are `a`, `b`"),
        ([tmp_path / "several.safetensors", "--tensor", "c"], "no matrix `c`"),
        ([folder, "--tensor", "W_dec"], "are for files of tensors"),
        ([tmp_path / "nowhere"], "nowhere"),
        ([rows, "--latents", "24"], "--latents: 24 is not there"),
        ([folder, "--index", other], "the index was built from the coder ffffffffffff…"),
        ([folder, "--index", small], "the index has 3 latents, the decoder 24"),
        ([rows, rows, "--index", index], "--index: co-activation is counted within one coder"),
        ([rows, "--index", tmp_path], "no index"),
    ):
        assert said in refused(*arguments), arguments
    done = command("neighbours", rows, "--out", tmp_path / "no" / "file.parquet")
    assert done.code == 2
    assert "cannot be written" in done.error
