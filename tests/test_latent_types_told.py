"""Types shown and checked: the scramble test, shares by hookpoint, the command."""

import json
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from glossator.cli import app
from glossator.errors import InputError
from glossator.latent_types import TYPES, latent_types
from glossator.neighbours import Neighbours
from glossator.scramble import scramble_test
from glossator.type_shares import type_plot, type_shares, write_plot
from index_reference import corpus
from test_latent_types import AT, LATENTS, directions, index, kinds, plain  # noqa: F401 - fixtures

SVG = "{http://www.w3.org/2000/svg}"
VOCABULARY = np.arange(20, 90)


class Letters:
    """A tokenizer whose tokens are letters."""

    def pieces(self, tokens):
        return [chr(0x4E00 + token) for token in tokens]


def read(text):
    return np.array([ord(letter) - 0x4E00 for letter in text], np.uint32)


class Source:
    """Latent 0 is active on 7; latent 1 on 7 after a token below 30; latent 2 on 40, never on 7."""

    def __init__(self, lost=0):
        self.texts, self.lost = [], lost

    def __call__(self, texts, latent):
        found = []
        for text in texts:
            self.texts.append((latent, text))
            tokens = read(text)
            if self.lost:  # a text that is cut into other tokens
                tokens, self.lost = tokens[tokens != 7], self.lost - 1
            before = np.r_[999, tokens[:-1]]
            active = [tokens == 7, (tokens == 7) & (before < 30), tokens == 40][latent]
            found.append((tokens, active.astype(np.float32)))
        return found


def on_seven(n=3, tokens=(7,)):
    ids = np.empty(n, object)
    ids[:] = [list(tokens)] * n
    return {"peak_ids": ids, "type": np.array(["unigram"] * n, object)}


def test_a_token_is_planted_twice_among_19_others_and_never_first():
    source = Source()
    test = scramble_test(on_seven(1, (7, 8, 9)), [0], source, Letters(), VOCABULARY)
    assert test["scrambles"].tolist() == [6]
    planted = [read(text) for _, text in source.texts]
    assert {len(tokens) for tokens in planted} == {20}
    where = [int(np.flatnonzero(np.isin(tokens, [7, 8, 9]))[0]) for tokens in planted]
    assert min(where) > 0
    assert len(set(where)) > 1
    assert len({text for _, text in source.texts}) == 6


def test_shares_tell_a_token_alone_from_a_token_in_context():
    test = scramble_test(on_seven(), [0, 1, 2], Source(), Letters(), VOCABULARY, repeats=200)
    assert test["share"][0] == test["share_on_token"][0] == 1
    assert test["share_on_token"][1] == pytest.approx(1 / 7, abs=0.1)
    assert test["share_on_token"][2] == 0
    assert test["share"][2] == pytest.approx(1 - (69 / 70) ** 19, abs=0.1)  # anywhere
    assert test["over_90"].tolist() == [True, False, False]


def test_a_scramble_that_is_cut_otherwise_is_drawn_again_and_then_left_out():
    assert scramble_test(on_seven(), [0], Source(lost=1), Letters(), VOCABULARY)["scrambles"] == [2]
    test = scramble_test(on_seven(), [0], Source(lost=99), Letters(), VOCABULARY)
    assert test["scrambles"].tolist() == [0]
    assert np.isnan(test["share"]).all()
    assert not test["over_50"].any()


def test_scrambles_depend_on_seed_and_latent_alone():
    one, both, other = Source(), Source(), Source()
    scramble_test(on_seven(), [1], one, Letters(), VOCABULARY)
    scramble_test(on_seven(), [0, 1], both, Letters(), VOCABULARY)
    scramble_test(on_seven(), [1], other, Letters(), VOCABULARY, seed=1)
    assert one.texts == [row for row in both.texts if row[0] == 1]
    assert one.texts != other.texts


def test_a_latent_of_many_tokens_cannot_be_scrambled():
    with pytest.raises(InputError, match="latent 0: the scramble test needs a latent"):
        scramble_test(on_seven(1, ()), [0], Source(), Letters(), VOCABULARY)
    with pytest.raises(InputError, match="must not be empty"):
        scramble_test(on_seven(), [0], Source(), Letters(), VOCABULARY[:0])


def test_shares_count_every_latent_once(kinds):  # noqa: F811
    shares = type_shares({"h.0": kinds, "h.1": {"type": np.array([], object)}})
    rows = shares.to_pylist()
    assert [(row["hookpoint"], row["type"]) for row in rows] == [
        (hookpoint, kind) for hookpoint in ("h.0", "h.1") for kind in TYPES
    ]
    assert sum(row["latents"] for row in rows) == len(LATENTS)
    assert sum(row["share"] for row in rows[: len(TYPES)]) == pytest.approx(1)
    unigrams = next(row for row in rows if row["type"] == "unigram")
    assert unigrams["latents"] == 2
    assert all(np.isnan(row["share"]) for row in rows[len(TYPES) :])


def test_bars_are_as_long_as_shares(kinds):  # noqa: F811
    shares = type_shares({"h.0": kinds, "<a&b>": kinds, "none": {"type": np.array([], object)}})
    root = ET.fromstring(type_plot(shares))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    widths = [float(bar.get("width")) for bar in bars]
    present = [row for row in shares.to_pylist() if row["latents"]]
    assert len(bars) == len(present)
    full = sum(widths) / 2
    for width, row, bar in zip(widths, present, bars, strict=True):
        assert width / full == pytest.approx(row["share"], abs=1e-3)
        assert bar.find(f"{SVG}title").text.startswith(f"{row['hookpoint']}: {row['type']}, ")
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"h.0", "<a&b>", "none", "0 %", "100 %"} <= set(texts)


def test_a_plot_that_is_no_svg_is_refused(kinds, tmp_path):  # noqa: F811
    shares = type_shares({"h.0": kinds})
    with pytest.raises(InputError, match=r"ends in \.svg"):
        write_plot(shares, tmp_path / "types.png")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_plot(shares, tmp_path / "folder.svg")


def test_the_command_writes_figures_and_a_plot(index, directions, tmp_path):  # noqa: F811
    near = Neighbours.of(directions[0], 3).write(tmp_path / "near.parquet")
    out, plot = tmp_path / "types.parquet", tmp_path / "types.svg"
    arguments = [index.path, "--neighbours", near, "--out", out, "--plot", plot, "--json"]
    done = CliRunner().invoke(app, ["types", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    counts = {row["type"]: row["latents"] for row in json.loads(done.stdout)}
    table = pq.read_table(out)
    expected = latent_types(index, neighbours=Neighbours.read(near))
    assert table["type"].to_pylist() == expected["type"].tolist()
    assert counts == {kind: expected["type"].tolist().count(kind) for kind in TYPES}
    assert counts["duplicate"] == 1
    assert table["pair_ids"].to_pylist()[AT["bigram"]] == [[11, 12]]
    assert set(table["hookpoint"].to_pylist()) == {"h.0"}
    assert ET.parse(plot).getroot().tag == f"{SVG}svg"


def test_hookpoints_stand_side_by_side(index, tmp_path):  # noqa: F811
    other = corpus(3).build(tmp_path / "other", attributes={"hookpoint": "h.7"})
    run = CliRunner().invoke(app, ["types", str(index.path), str(other)])
    assert run.exit_code == 0, run.output
    assert "h.0" in run.stdout
    assert "h.7" in run.stdout
    # Two of one hookpoint are told apart by their paths.
    run = CliRunner().invoke(app, ["types", str(index.path), str(index.path), "--json"])
    assert len({row["hookpoint"] for row in json.loads(run.stdout)}) == 2


def test_neighbours_of_several_indices_are_refused(index):  # noqa: F811
    done = CliRunner().invoke(
        app, ["types", *[str(index.path)] * 2, "--neighbours", "near.parquet"]
    )
    assert isinstance(done.exception, InputError)
    assert "is of one index" in str(done.exception)
