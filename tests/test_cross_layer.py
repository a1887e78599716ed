"""A cross-layer coder writes to several layers: which decoder was asked is said everywhere."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from glossator.coders import load_coder
from glossator.errors import InputError
from glossator.logit_weights import LogitWeights, logit_directions
from glossator.neighbours import Neighbours, neighbours
from tiny_runs import command

GOLDEN = Path(__file__).parent / "golden" / "coders"
CLT = GOLDEN / "circuit_tracer_clt"
PLACES = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]


@pytest.fixture(scope="module")
def coder():
    return load_coder(CLT, "W_enc_0")


@pytest.mark.parametrize("place", PLACES)
def test_neighbours_are_those_of_the_decoder_that_was_asked(coder, place):
    near = Neighbours.of(coder, 3, writes_to=place)
    ids, cosines = neighbours(coder.decoders[place], k=3)
    np.testing.assert_array_equal(near.ids, ids)
    np.testing.assert_array_equal(near.cosines, cosines)
    assert (near.decoder, near.coder_hash) == (place, coder.hash)


def test_the_first_decoder_is_asked_unless_another_is_named(coder, tmp_path):
    near = Neighbours.of(coder, 3)
    np.testing.assert_array_equal(near.ids, neighbours(coder.decoder, k=3)[0])
    assert near.decoder == PLACES[0]
    path = near.write(tmp_path / "near.parquet")
    assert pq.read_schema(path).metadata[b"glossator.decoder"] == PLACES[0].encode()
    assert Neighbours.read(path).decoder == PLACES[0]
    plain = load_coder(GOLDEN / "circuit_tracer_topk")
    assert Neighbours.of(plain, 3).decoder == plain.hookpoint_out
    assert Neighbours.of(coder.decoder, 3).decoder == ""


def test_a_decoder_that_is_not_there_is_refused_with_those_that_are(coder):
    with pytest.raises(InputError, match=r"no decoder for `blocks.7.*`blocks.0.*`blocks.2"):
        Neighbours.of(coder, 3, writes_to="blocks.7.hook_mlp_out")
    with pytest.raises(InputError, match="give a coder"):
        Neighbours.of(coder.decoder, 3, writes_to=PLACES[0])


def test_the_command_says_which_decoder_it_asked(coder, tmp_path):
    out = tmp_path / "near.parquet"
    done = command("neighbours", CLT, "--hookpoint", "W_enc_0", "-k", 3, "--out", out)
    assert done.code == 0, done.err
    assert f"by the decoder that writes to {PLACES[0]}, one of 3" in done.words
    options = ("-k", 3, "--writes-to", PLACES[2], "--out", out)
    done = command("neighbours", CLT / "W_enc_0.safetensors", *options)
    assert f"writes to {PLACES[2]}" in done.words
    assert Neighbours.read(out).decoder == PLACES[2]
    # Two layers of one set are compared where both write.
    done = command("neighbours", *(CLT / f"W_enc_{n}.safetensors" for n in (0, 1)), *options)
    assert done.code == 0, done.err
    expected, _ = neighbours(
        *(load_coder(CLT, f"W_enc_{n}").decoders[PLACES[2]] for n in (0, 1)), k=3
    )
    assert pq.read_table(out)["neighbour"].to_numpy().tolist() == expected.flatten().tolist()
    assert pq.read_schema(out).metadata[b"glossator.decoder"] == PLACES[2].encode()


def test_an_encoder_is_not_taken_for_a_decoder():
    done = command("neighbours", CLT / "W_enc_0.safetensors", "-k", 3)
    assert done.code == 2
    assert "its only matrix is `W_enc_0`, by its name an encoder's" in done.error


def test_logit_weights_are_those_of_all_that_a_latent_writes(coder):
    unembedding = torch.randn(50, coder.width_out, generator=torch.Generator().manual_seed(0))
    written = sum(rows @ unembedding.T for rows in coder.decoders.values())
    found = LogitWeights.of(logit_directions(coder), unembedding)
    expected = written.sort(dim=1, descending=True).values[:, :21]
    np.testing.assert_allclose(found.top, expected, rtol=1e-4, atol=1e-4)
    # None of them alone, and the coder's own rows are left as they were.
    assert not any(
        torch.allclose(logit_directions(coder), rows) for rows in coder.decoders.values()
    )
    assert torch.equal(coder.decoder, load_coder(CLT, "W_enc_0").decoder)
    plain = load_coder(GOLDEN / "circuit_tracer_topk")
    assert logit_directions(plain) is plain.decoder
