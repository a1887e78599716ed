"""The atlas: what it packs is what the index and the tables hold; the file is one and inert."""

from __future__ import annotations

import base64
import gzip
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atlas_world import PLANT, S, World
from glossator.atlas import build_atlas
from glossator.atlas.columns import METRICS, explainers, latent_columns
from glossator.atlas.examples import (
    DOCUMENT_START,
    MASKED,
    PADDING,
    PLAN,
    RULE_FIRES,
    RULE_KNOWN,
    SCORE_SIDE,
    SILENT_EXAMPLE,
    STRONGEST,
)
from glossator.atlas.firing import fires
from glossator.atlas.pack import encode, pack, planes, shorten, unpack
from glossator.atlas.pages import choose_pages
from glossator.atlas.summary import explainer_facts, latent_facts
from glossator.errors import InputError
from glossator.index import NO_DOCUMENT
from glossator.neighbours import RELATIONS, Neighbours
from glossator.records import TABLES, Near, Rule


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world") / "index")


@pytest.fixture(scope="module")
def atlas(world, tmp_path_factory):
    return build_atlas(tmp_path_factory.mktemp("atlas") / "atlas.html", **world.arguments())


def blobs(path):
    """The table and the pages of an atlas: their JSON and arrays in one mapping each."""
    found = re.findall(
        r'<script type="application/octet-stream;base64" id="(\w+)-data">([^<]*)</script>',
        path.read_text(encoding="utf-8"),
    )
    return {name: _joined(*unpack(base64.b64decode(text))) for name, text in found}


def _joined(meta, arrays):
    return meta | arrays


def examples_of(pages, latent):
    """The examples of a latent as the page's script reads them, one dictionary each."""
    W = pages["width"]
    page = pages["page_latent"].tolist().index(latent)
    active = np.cumsum([0, *pages["active_n"].tolist()])
    fired = np.cumsum([0, *pages["fired_n"].tolist()])
    n = len(pages["context"])
    tokens = np.zeros(n * W, np.int64)
    for i, plane in enumerate(pages["tokens"].reshape(-1, n * W)):
        tokens |= plane.astype(np.int64) << (8 * i)
    for e in range(pages["page_examples"][page], pages["page_examples"][page + 1]):
        w = pages["example_window"][e]
        codes = np.zeros(W)
        at = slice(active[e], active[e + 1])
        codes[pages["active_offset"][at]] = pages["active_code"][at]
        yield {
            "start": int(pages["context"][w]) * S + int(pages["offset"][w]),
            "document": int(pages["documents"][pages["document"][w]]),
            "pieces": [pages["strings"][t] for t in tokens[w * W : (w + 1) * W]],
            "marks": pages["marks"].reshape(-1, W)[w],
            "activations": codes / 255 * pages["max_activation"][page],
            "decile": int(pages["example_decile"][e]),
            "flags": int(pages["example_flags"][e]),
            "fired": pages["fired_offset"][fired[e] : fired[e + 1]].tolist(),
        }


# Packing.

_TYPES = st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64, np.float32])
_ARRAYS = _TYPES.flatmap(lambda dtype: hnp.arrays(dtype, st.integers(0, 9)))


@given(
    meta=st.dictionaries(st.text(), st.none() | st.text() | st.integers(-9, 9), max_size=4),
    arrays=st.dictionaries(st.text(min_size=1), _ARRAYS, max_size=4),
)
def test_what_is_packed_comes_back(meta, arrays):
    blob = pack(meta, arrays)
    meta_back, arrays_back = unpack(blob)
    assert meta_back == meta
    assert list(arrays_back) == list(arrays)
    for name, array in arrays.items():
        assert arrays_back[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays_back[name], array)
    assert pack(meta, arrays) == blob
    assert re.fullmatch(r"[A-Za-z0-9+/=]*", encode(blob))


def test_arrays_begin_where_a_browser_can_view_them():
    for text in ("", "a", "ab", "abcdefg"):
        for n in range(9):
            data = gzip.decompress(
                pack({"x": text}, {"a": np.zeros(n, np.uint8), "b": np.zeros(2, np.uint64)})
            )
            assert (4 + int.from_bytes(data[:4], "little")) % 8 == 0


def test_nan_in_json_and_other_types_are_refused():
    with pytest.raises(ValueError, match="Out of range float"):
        pack({"x": float("nan")}, {})
    with pytest.raises(ValueError, match="array `x` is int64"):
        pack({}, {"x": np.zeros(1, np.int64)})


@given(values=hnp.arrays(np.uint32, st.integers(0, 20)))
def test_planes_hold_every_integer(values):
    top = int(values.max(initial=0)) + 1
    split = planes(values, top)
    joined = sum(plane.astype(np.int64) << (8 * i) for i, plane in enumerate(split))
    np.testing.assert_array_equal(joined, values)
    assert len(split) == max(1, ((top - 1).bit_length() + 7) // 8)


@given(values=hnp.arrays(np.float32, 8, elements=st.floats(width=32)))
def test_shortened_floats_are_near_and_counts_exact(values):
    short = shorten(values)
    within = np.abs(values) <= 1
    np.testing.assert_array_equal(short[~within], values[~within])
    error = np.abs(short[within] - values[within])
    assert (error <= np.maximum(np.abs(values[within]) * 2.0**-12, 2.0**-130)).all()


# Examples.


def test_examples_are_those_of_the_index_with_activations_within_a_255th(world, atlas):
    pages = blobs(atlas)["pages"]
    for latent in (0, 1, 2, 8, 39):
        rows = {
            int(start): (examples, i)
            for plan in (PLAN, STRONGEST)
            for examples in [world.index.sample([latent], plan, 0)]
            for i, start in enumerate(examples.start)
        }
        shown = list(examples_of(pages, latent))
        assert sorted(example["start"] for example in shown) == sorted(rows)
        top = float(world.index.summary()["max_activation"][latent])
        for example in shown:
            drawn, row = rows[example["start"]]
            true = drawn.activations[row]
            np.testing.assert_allclose(example["activations"], true, atol=top / 255 + 1e-6)
            assert ((example["activations"] > 0) == (true > 0)).all()
            assert example["decile"] == drawn.decile[row]
            assert example["document"] == drawn.document[row]
            assert bool(example["flags"] & SCORE_SIDE) == (drawn.split[row] == 1)
            assert bool(example["flags"] & SILENT_EXAMPLE) == (not true.any())


def test_examples_stand_by_decile_then_peak_and_the_silent_ones_last(atlas):
    pages = blobs(atlas)["pages"]
    for latent in range(1, 40):
        keys = [
            (-example["decile"], -example["activations"].max())
            for example in examples_of(pages, latent)
        ]
        assert keys == sorted(keys)


def test_text_is_that_of_the_whole_context_cut_at_the_window(world, atlas):
    pages, W = blobs(atlas)["pages"], world.index.window
    whole = [world.text.pieces(row.tolist()) for row in world.tokens]
    assert any("☕" in piece for row in whole for piece in row)
    for latent in range(1, 40):
        for example in examples_of(pages, latent):
            context, offset = divmod(example["start"], S)
            assert example["pieces"] == whole[context][offset : offset + W]


def test_marks_tell_document_starts_masked_tokens_and_padding_apart(world, atlas):
    pages, W = blobs(atlas)["pages"], world.index.window
    seen = 0
    for latent in range(1, 40):
        for example in examples_of(pages, latent):
            context, offset = divmod(example["start"], S)
            at = slice(offset, offset + W)
            documents, mask = world.documents[context], world.mask[context]
            begins = np.concatenate([[True], documents[1:] != documents[:-1]])[at]
            begins &= documents[at] != NO_DOCUMENT
            marks = example["marks"]
            np.testing.assert_array_equal((marks & MASKED) > 0, ~mask[at])
            np.testing.assert_array_equal((marks & PADDING) > 0, documents[at] == NO_DOCUMENT)
            # A context may begin within a document; where it does the first token opens none.
            inner = slice(1, None) if offset == 0 else slice(None)
            np.testing.assert_array_equal(((marks & DOCUMENT_START) > 0)[inner], begins[inner])
            seen += int(marks.max() > 0)
    assert seen


def _fires_slowly(rule, tokens, mask):
    out = np.zeros(tokens.shape, bool)
    for i, row in enumerate(tokens):
        for t, token in enumerate(row):

            def near(near, i=i, t=t, row=row):
                return any(
                    row[u] in near.tokens and mask[i, u]
                    for u in range(max(0, t - near.before), min(len(row), t + near.after + 1))
                    if u != t
                )

            out[i, t] = (
                token in rule.tokens
                and mask[i, t]
                and (rule.require is None or near(rule.require))
                and not (rule.exclude is not None and near(rule.exclude))
            )
    return out


_SOME = st.sets(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
_NEAR = st.none() | st.builds(Near, tokens=_SOME, before=st.integers(0, 4), after=st.integers(0, 4))


@settings(deadline=None)
@given(
    rule=st.builds(Rule, tokens=_SOME, require=_NEAR, exclude=_NEAR),
    tokens=hnp.arrays(np.uint32, (2, 9), elements=st.integers(0, 4)),
    mask=hnp.arrays(np.bool_, (2, 9)),
)
def test_rules_fire_where_the_definition_says(rule, tokens, mask):
    np.testing.assert_array_equal(fires(rule, tokens, mask), _fires_slowly(rule, tokens, mask))


def test_each_example_says_where_its_rule_fires_in_the_whole_context(world, atlas):
    pages, W = blobs(atlas)["pages"], world.index.window
    rules = {
        row["latent"]: Rule.model_validate_json(row["rule"])
        for row in world.tables()["explanations"].to_pylist()
        if row["rule"]
    }
    for latent in (1, 2, 4, 8, 12):
        where = _fires_slowly(rules[latent], world.tokens, world.mask)
        for example in examples_of(pages, latent):
            context, offset = divmod(example["start"], S)
            expected = np.flatnonzero(where[context, offset : offset + W]).tolist()
            assert example["fired"] == expected
            assert example["flags"] & RULE_KNOWN
            assert bool(example["flags"] & RULE_FIRES) == bool(expected)
    assert not any(example["flags"] & RULE_KNOWN for example in examples_of(pages, 0))


# Columns and header.


def test_the_table_holds_every_latent_and_the_scores_of_its_explanation(world, atlas):
    table, tables = blobs(atlas)["table"], world.tables()
    assert [e["name"] for e in table["explainers"]] == ["rules", "judge <b>model</b>"]
    for row in tables["latents"].to_pylist():
        latent = row["latent"]
        assert table["statuses"][table["status"][latent]] == row["status"]
        for name in ("count", "windows", "windows_scoring", "documents"):
            assert table[name][latent] == row[name]
        assert table["density"][latent] == np.float32(row["density"])
    f1 = {
        row["explanation_id"]: row["value"]
        for row in tables["scores"].to_pylist()
        if row["metric"] == "f1"
    }
    for row in tables["explanations"].to_pylist():
        which = 0 if row["explainer"] == "rules" else 1
        assert table["explainers"][which]["text"][row["latent"]] == row["text"]
        value = table[f"f1_{which}"][row["latent"]]
        assert value == pytest.approx(f1.get(row["explanation_id"], np.nan), abs=2e-4, nan_ok=True)
    assert table["detection_1"][2] == pytest.approx(0.55, abs=2e-4)
    assert np.isnan(table["detection_0"]).all()


def test_of_several_explanations_the_table_shows_the_one_of_the_best_f1():
    explanations = pa.Table.from_pylist(
        [
            {"explanation_id": key, "hookpoint": "h", "latent": 3, "explainer": "e", "text": key}
            for key in ("weak", "strong", "unscored")
        ],
        TABLES["explanations"],
    )
    scores = pa.Table.from_pylist(
        [
            {
                "explanation_id": key,
                "protocol_id": "p",
                "scorer": "corpus",
                "metric": "f1",
                "kind": "all",
                "decile": 0,
                "value": value,
            }
            for key, value in (("weak", 0.2), ("strong", 0.9))
        ],
        TABLES["scores"],
    )
    (known,) = explainers(explanations, scores, 5)
    assert known.text == [None, None, None, "strong", None]
    assert set(known.metrics) == set(METRICS)
    # A null is no number: the strong one has no interval.
    assert known.metrics["f1"][3] == np.float32(0.9)
    assert np.isnan(known.metrics["low"][3])


def test_a_page_names_the_nearest_latents_and_what_they_are(world, atlas):
    pages, near = blobs(atlas)["pages"], world.neighbours
    assert (pages["near"], pages["relations"]) == (8, list(RELATIONS))
    np.testing.assert_array_equal(pages["near_id"].reshape(-1, 8), near.ids[:, :8])
    np.testing.assert_array_equal(pages["near_relation"].reshape(-1, 8), near.relation[:, :8])
    cosines = pages["near_cosine"].reshape(-1, 8)
    np.testing.assert_allclose(cosines[:-1], near.cosines[:-1, :8], rtol=2e-4)
    assert not cosines[-1].any()


def test_an_atlas_without_neighbours_or_relations_is_built(world, tmp_path):
    bare = replace(world.neighbours, relation=None)
    for name, near in (("none", None), ("bare", bare)):
        path = build_atlas(tmp_path / f"{name}.html", **world.arguments(neighbours=near))
        pages = blobs(path)["pages"]
        assert "near_relation" not in pages
        assert ("near_id" in pages) == (near is not None)
        assert pages["near"] == (0 if near is None else 8)


def test_neighbours_of_another_coder_are_refused(world, tmp_path):
    other = Neighbours(np.zeros((3, 1), np.uint32), np.zeros((3, 1), np.float32))
    with pytest.raises(InputError, match="neighbours of 3 latents; the index has 40"):
        build_atlas(tmp_path / "atlas.html", **world.arguments(neighbours=other))


def test_header_numbers_have_their_denominators(world):
    tables = world.tables()
    rows = latent_columns(tables["latents"], world.n_latents)
    facts = {fact.label: fact for fact in latent_facts(rows)}
    status = tables["latents"]["status"].to_pylist()
    assert facts["live"].value == str(status.count("live"))
    assert facts["dead"].detail == f"{100 / 40 * status.count('dead'):.1f} % of 40 latents"
    known = explainers(tables["explanations"], tables["scores"], world.n_latents)
    facts = {fact.label: fact for fact in explainer_facts(rows, known[0])}
    assert facts["explained"].value == "39"
    f1 = [row["value"] for row in tables["scores"].to_pylist() if row["metric"] == "f1"]
    low = [row["low"] for row in tables["scores"].to_pylist() if row["metric"] == "f1"]
    assert facts["mean F1"].value == f"{np.mean(f1):.2f}"
    assert facts["mean F1"].detail == "over 39, held-out corpus"
    passed = sum(value > 0.8 for value in low)
    assert facts["F1 lower bound above 0.8"].detail == f"{passed} of 39 explained"


def test_a_latent_without_a_row_is_unknown_and_rows_of_other_hookpoints_are_left_out(
    world, tmp_path
):
    arguments = world.arguments()
    elsewhere = arguments["latents"].set_column(
        0, "hookpoint", pa.array(["elsewhere"] * len(arguments["latents"]))
    )
    arguments["latents"] = pa.concat_tables([arguments["latents"].slice(1, 5), elsewhere])
    table = blobs(build_atlas(tmp_path / "a.html", **arguments))["table"]
    named = [table["statuses"][i] for i in table["status"]]
    assert named[0] == "unknown"
    assert "unknown" not in named[1:6]
    assert named[6:] == ["unknown"] * 34


# The file.


def test_the_same_run_gives_the_same_bytes_and_another_seed_other_examples(world, atlas, tmp_path):
    again = build_atlas(tmp_path / "again.html", **world.arguments())
    assert again.read_bytes() == atlas.read_bytes()
    other = build_atlas(tmp_path / "other.html", **world.arguments(seed=1))
    assert blobs(other)["pages"]["context"].tolist() != blobs(atlas)["pages"]["context"].tolist()


class _Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_planted_mark_up_is_text_and_nothing_points_outside(world, atlas):
    source = atlas.read_text(encoding="utf-8")
    assert PLANT not in source
    parser = _Elements()
    parser.feed(source)
    tags = [tag for tag, _ in parser.seen]
    assert "img" not in tags
    assert tags.count("script") == 3
    for tag, attributes in parser.seen:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:,")) or not value, (tag, attributes)
    pages = blobs(atlas)["pages"]
    assert PLANT in "".join(e["text"] for e in pages["explanations"])


def test_the_header_says_how_exact_the_activations_are(world, tmp_path):
    out = build_atlas(tmp_path / "atlas.html", **world.arguments(run_info=None, pages=[3]))
    said = f"<dt>activation precision</dt><dd>{world.index.precision}</dd>"
    assert said in out.read_text(encoding="utf-8")


def test_an_atlas_without_explanations_or_scores_is_built(world, tmp_path):
    empty = {name: TABLES[name].empty_table() for name in ("explanations", "scores")}
    out = build_atlas(tmp_path / "a.html", **world.arguments(**empty))
    assert blobs(out)["table"]["explainers"] == []


def test_pages_are_those_named_or_drawn_by_seed_among_the_live(world, tmp_path):
    out = build_atlas(tmp_path / "a.html", **world.arguments(pages=[7, 3, 3]))
    assert blobs(out)["pages"]["page_latent"].tolist() == [3, 7]
    assert "lists all 40 latents and holds the pages of 2 of them" in out.read_text()
    rows = latent_columns(world.tables()["latents"], 40)
    one = choose_pages(rows, pages=None, max_pages=10, seed=0)
    assert one.tolist() == choose_pages(rows, pages=None, max_pages=10, seed=0).tolist()
    assert one.tolist() != choose_pages(rows, pages=None, max_pages=10, seed=1).tolist()
    assert rows.of("live")[one].all()
    assert len(choose_pages(rows, pages=None, max_pages=40, seed=0)) == 40
    nearly = choose_pages(rows, pages=None, max_pages=39, seed=0)
    assert 0 not in nearly  # the dead one comes last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pages": [40]}, "field `pages`: no latent 40; ids go from 0 to 39"),
        ({"pages": [-1]}, "no latent -1"),
        ({"pages": [1, 2, 3], "max_pages": 2}, "3 latents, and one file holds `max_pages` = 2"),
    ],
)
def test_pages_that_cannot_be_are_refused(world, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        build_atlas(tmp_path / "a.html", **world.arguments(**change))
    assert list(tmp_path.iterdir()) == []


def test_tables_of_another_index_and_bad_logits_are_refused(world, tmp_path):
    tables = world.tables()
    at = TABLES["latents"].get_field_index("latent")
    shifted = tables["latents"].set_column(
        at, TABLES["latents"].field(at), pa.array(range(1, 41), pa.int64())
    )
    with pytest.raises(InputError, match="table latents: field `latent`: 40 is no latent"):
        build_atlas(tmp_path / "a.html", **world.arguments(latents=shifted))
    for bad in ("no JSON", "[1]", '[["a", "b"]]'):
        at = TABLES["latents"].get_field_index("top_logits")
        broken = tables["latents"].set_column(
            at, TABLES["latents"].field(at), pa.array([bad] * 40, pa.string())
        )
        with pytest.raises(InputError, match="field `top_logits` of latent 0"):
            build_atlas(tmp_path / "a.html", **world.arguments(latents=broken))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_nothing_behind(world, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="taken: cannot be written"):
        build_atlas(tmp_path / "taken", **world.arguments())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be made"):
        build_atlas(tmp_path / "file" / "a.html", **world.arguments())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]
