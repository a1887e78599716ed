"""Types shown: shares by hookpoint, the plot, the command."""

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
from glossator.type_shares import read_types, type_plot, type_shares, write_plot, write_types
from index_reference import corpus
from test_latent_types import AT, LATENTS, directions, index, kinds, plain  # noqa: F401 - fixtures

SVG = "{http://www.w3.org/2000/svg}"


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


def test_layers_stand_in_their_order(kinds):  # noqa: F811
    names = ["layers.10", "layers.2", "layers.2.mlp", "embed", "layers.9.x"]
    shares = type_shares(dict.fromkeys(names, kinds))
    expected = ["embed", "layers.2", "layers.2.mlp", "layers.9.x", "layers.10"]
    assert list(dict.fromkeys(shares["hookpoint"].to_pylist())) == expected
    texts = [text.text for text in ET.fromstring(type_plot(shares)).iter(f"{SVG}text")]
    assert [text for text in texts if text in names] == expected


def test_what_was_written_is_read_back(kinds, tmp_path):  # noqa: F811
    other = {name: column[:3] for name, column in kinds.items() if name != "logit_z"}
    write_types({"h.0": kinds, "h.1": other}, tmp_path / "types.parquet")
    read = read_types(tmp_path / "types.parquet")
    assert list(read) == ["h.0", "h.1"]
    for name, column in kinds.items():
        np.testing.assert_array_equal(read["h.0"][name], column, err_msg=name)
    assert np.isnan(read["h.1"]["logit_z"]).all()
    (tmp_path / "types.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="no whole Parquet file"):
        read_types(tmp_path / "types.parquet")
    pq.write_table(type_shares({}).drop(["type"]), tmp_path / "types.parquet")
    with pytest.raises(InputError, match="no table of types"):
        read_types(tmp_path / "types.parquet")


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
