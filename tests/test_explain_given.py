"""Explanations from files, of nothing, of others, and the registry of all explainers."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asked_judges import Knowing
from glossator.errors import InputError
from glossator.explain import (
    EXPLAINERS,
    POST,
    Delimited,
    File,
    Null,
    PeakToken,
    explain,
    explainer_of,
    null_explanations,
    saw_logits,
)
from glossator.explain.given import read_explanations
from glossator.explain.views import Logits, logits_of
from glossator.records import Explanation, table_of
from stop_world import HOOKPOINT, stop_index


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return stop_index(tmp_path_factory.mktemp("stop") / "index")


# --- files ------------------------------------------------------------------------------------

ROWS = [
    {"latent": 2, "text": 'the word "stop",\nafter a comma'},
    {"latent": 0, "text": "naïve – 東京 😀 שלום"},
]
ONE_LINE = {2: 'the word "stop", after a comma', 0: "naïve – 東京 😀 שלום"}


def written(path, rows):
    if path.suffix == ".csv":
        import csv

        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


ENDINGS = ["csv", "jsonl", "parquet"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_explanations(tmp_path, world, ending):
    index, _ = world
    path = written(tmp_path / f"mine.{ending}", ROWS)
    kept = []
    explained = explain(index, [0, 1, 2], explainer=File(path=str(path)), sink=kept.append)
    assert {e.latent: e.text for e in explained.explanations} == ONE_LINE
    assert [e.latent for e in explained.explanations] == [0, 2]
    assert {e.explainer for e in explained.explanations} == {f"file:mine.{ending}"}
    assert kept == list(explained.explanations)
    assert [(f.latent, f.reason) for f in explained.failures] == [(1, f"{path} has none")]
    assert explained.usage.requests == 0


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_name_their_author_and_other_hookpoints_are_passed_over(tmp_path, ending):
    rows = [
        {"latent": 1, "text": "a", "hookpoint": HOOKPOINT, "explainer": "Ada"},
        {"latent": 1, "text": "b", "hookpoint": HOOKPOINT, "explainer": "np_max-act"},
        {"latent": 9_999, "text": "c", "hookpoint": "elsewhere", "explainer": "Ada"},
    ]
    found = read_explanations(written(tmp_path / f"x.{ending}", rows), HOOKPOINT, 4)
    assert [(e.latent, e.text, e.explainer) for e in found] == [
        (1, "a", "file:Ada"),
        (1, "b", "file:np_max-act"),
    ]


texts = st.text(min_size=1).filter(lambda text: text.split() and "\x00" not in text)


@given(st.dictionaries(st.integers(0, 99), texts, min_size=1))
def test_any_text_survives_on_one_line(tmp_path_factory, by_latent):
    folder = tmp_path_factory.mktemp("texts")
    rows = [{"latent": latent, "text": text} for latent, text in by_latent.items()]
    for ending in ENDINGS:
        try:
            path = written(folder / f"x.{ending}", rows)
        except UnicodeEncodeError:
            return
        found = read_explanations(path, "", 100)
        assert {e.latent: e.text for e in found} == {
            latent: " ".join(text.split()) for latent, text in by_latent.items()
        }


BAD = [
    ("csv", "latent,text\n1,a\nx,b\n", "line 3: `latent` is 'x'; it must be from 0 to 3"),
    ("csv", "latent,text\n1,a\n4,b\n", "line 3: `latent` is '4'; it must be from 0 to 3"),
    ("csv", "latent,text\n-1,b\n", "line 2: `latent` is '-1'"),
    ("csv", "latent,text\n1,\n", "line 2: `text` is missing"),
    ("csv", 'latent,text\n1,"a\nb"\n2,"  "\n', "line 4: `text` is empty"),
    ("csv", "latent,text\n1,a, b\n", "line 2: 3 cells under 2 columns; a text with a comma"),
    ("csv", "latent,text\n1,a\n1,b\n", "line 3: latent 1 has an explanation by `file:bad.csv`"),
    ("csv", "latent,label\n1,a\n", "no column `text`; it has latent, label"),
    ("csv", "latent,text,score\n1,a,2\n", "column `score` is not known; known are latent, text"),
    ("csv", "latent,text,text\n1,a,2\n", "column `text` is there twice"),
    ("csv", "", "no column `latent`; it has none"),
    ("csv", 'latent,text\n1,"a\n', "not CSV"),
    ("csv", b"latent,text\n1,\xff\n", "is not UTF-8"),
    ("jsonl", '{"latent": 1, "text": "a"}\n{"latent": 1\n', "line 2: not JSON"),
    ("jsonl", '\n[1, "a"]\n', "line 2: not a JSON object"),
    ("jsonl", '{"latent": true, "text": "a"}\n', "line 1: `latent` is True"),
    ("jsonl", '{"latent": 1.5, "text": "a"}\n', "line 1: `latent` is 1.5"),
    ("jsonl", '{"latent": 1, "text": ["a"]}\n', "line 1: `text` is ['a'], not a text"),
    ("jsonl", '{"latent": 1, "text": "a", "by": "me"}\n', "line 1: field `by` is not known"),
    ("jsonl", '{"text": "a"}\n', "line 1: `latent` is missing"),
    ("parquet", "latent,text\n", "not Parquet"),
    ("txt", "", "must end in .csv, .jsonl, .parquet"),
]


@pytest.mark.parametrize(("ending", "content", "message"), BAD)
def test_a_bad_row_is_refused_by_its_line(tmp_path, ending, content, message):
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as said:
        read_explanations(path, HOOKPOINT, 4)
    assert str(said.value).startswith(f"{path}: ")
    assert message in str(said.value)
    assert "\n" not in str(said.value)


def test_a_bad_row_of_a_table_is_refused_by_its_number(tmp_path):
    rows = [{"latent": 1, "text": "a"}, {"latent": None, "text": "b"}]
    with pytest.raises(InputError, match="row 2: `latent` is missing"):
        read_explanations(written(tmp_path / "x.parquet", rows), HOOKPOINT, 4)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for name in ("x.csv", "x.parquet"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read"):
            read_explanations(tmp_path / name, HOOKPOINT, 4)


def test_a_spreadsheets_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbflatent,text\r\n1,a\r\n")
    assert read_explanations(path, "", 4)[0].text == "a"


# --- none, null, peak token -------------------------------------------------------------------


def test_none_is_an_empty_text_of_every_latent(world):
    index, _ = world
    explained = explain(index, [3, 1], explainer="none")
    assert [(e.latent, e.text, e.explainer) for e in explained.explanations] == [
        (3, "", "none"),
        (1, "", "none"),
    ]


def made(latents, explainer="cot:big", hookpoint=HOOKPOINT, text="text {}"):
    return [Explanation.of(hookpoint, latent, explainer, text.format(latent)) for latent in latents]


@given(st.sets(st.integers(0, 5_000), min_size=2, max_size=60), st.integers(0, 99), st.data())
def test_the_null_gives_each_latent_the_text_of_another(latents, seed, data):
    n = data.draw(st.integers(1, 70))
    explanations = made(sorted(latents))
    nulls = null_explanations(explanations, latents=n, seed=seed)
    assert len(nulls) == min(n, len(latents))
    assert len({one.latent for one in nulls}) == len(nulls)
    for one in nulls:
        assert one.explainer == "null:cot:big"
        other = int(one.text.split()[1])
        assert other in latents
        assert other != one.latent
    # No text is given twice: every latent's explanation judges one other latent.
    assert len({one.text for one in nulls}) == len(nulls)
    shuffled = data.draw(st.permutations(explanations))
    assert null_explanations(shuffled, latents=n, seed=seed) == nulls


def test_the_null_is_another_one_for_another_seed_and_few_change_when_some_are_added():
    few, more = made(range(1_000)), made(range(1_010))
    first, second = (
        {one.latent: one.text for one in null_explanations(few, seed=seed)} for seed in (0, 1)
    )
    assert sum(first[i] == second[i] for i in range(1_000)) < 20
    grown = {one.latent: one.text for one in null_explanations(more, latents=2_000)}
    assert sum(first[i] != grown[i] for i in range(1_000)) <= 10


def test_the_null_stays_within_explainer_and_hookpoint_and_skips_like_texts():
    explanations = [
        *made(range(5)),
        *made(range(5), explainer="rules", text="rule {}"),
        *made(range(5), hookpoint="other", text="other {}"),
        *made(range(3), explainer="same", text="same"),
        *made(range(3), explainer="none", text=""),
    ]
    nulls = null_explanations(explanations)
    assert len(nulls) == 15
    begins = {
        (HOOKPOINT, "null:cot:big"): "text",
        (HOOKPOINT, "null:rules"): "rule",
        ("other", "null:cot:big"): "other",
    }
    for one in nulls:
        assert one.text.startswith(begins[one.hookpoint, one.explainer])
    # Of a null there is none, and half that say the same are given what says something else.
    assert null_explanations(nulls) == []
    alike = made(range(4), text="same") + made(range(10, 14), text="text {}")
    for one in null_explanations(alike):
        assert one.text != ("same" if one.latent < 4 else f"text {one.latent}")


def test_the_null_comes_by_the_same_door(world):
    index, _ = world
    explained = explain(
        index, [0, 1, 2, 3], explainer=Null(latents=2), explanations=made(range(4)), seed=3
    )
    expected = null_explanations(made(range(4)), latents=2, seed=3)
    assert list(explained.explanations) == expected
    assert explained.failures == ()


def test_the_peak_token_is_the_commonest_of_the_explain_side(world):
    index, text = world
    judge = Knowing(lambda prompt, choices: pytest.fail("nobody is asked"))
    explained = explain(index, [0, 1, 3], explainer=PeakToken(), text=text, judge=judge)
    assert [(e.latent, e.text) for e in explained.explanations] == [
        (0, "the token “␣stop”"),
        (1, "the token “␣rare”"),
    ]
    assert {e.explainer for e in explained.explanations} == {"peak_token"}
    assert [f.latent for f in explained.failures] == [3]


# --- the registry -----------------------------------------------------------------------------


def test_every_explainer_has_a_name_and_says_what_it_is():
    assert set(EXPLAINERS) == {
        *("rules", "delimited", "cot", "activations", "logits", "contrastive"),
        *("token_activations", "max_activations", "refine", "debate"),
        *("file", "peak_token", "none", "null"),
    }
    for name, kind in EXPLAINERS.items():
        assert kind.__doc__
        given = {"path": "x.csv"} if name == "file" else {}
        explainer = explainer_of(name, **given)
        assert explainer.name("big").split(":")[0] == name
        assert (explainer.name("big") == f"{name}:big") == explainer.asks


def test_settings_are_read_from_texts_and_stand_in_the_name():
    explainer = explainer_of("activations", threshold="0.6", n="20", length="20", draw="uniform")
    assert explainer == POST
    assert explainer.name("m") == "activations(n=20,draw=uniform,length=20,threshold=0.6):m"
    assert explainer_of("delimited", values="true").name("m") == "delimited(values=true):m"
    assert explainer_of("rules", max_tokens="4").name() == "rules(max_tokens=4)"
    assert explainer_of("rules", look_ahead="true").name() == "rules"
    assert explainer_of("delimited").name("m", "m") == "delimited:m"
    assert explainer_of("file", path="a/b.csv").name("m") == "file:b.csv"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("delimted", {}, "explainer `delimted`: unknown (did you mean `delimited`?); known are"),
        (
            "cot",
            {"treshold": 1},
            "explainer `cot`: no setting `treshold`; its settings are n, draw",
        ),
        ("cot", {"threshold": "2"}, "explainer `cot`: `threshold` is '2': input should be less"),
        ("cot", {"draw": "best"}, "explainer `cot`: `draw` is 'best': input should be 'uniform'"),
        ("file", {}, "explainer `file`: give `path`"),
        ("none", {"n": 1}, "explainer `none`: no setting `n`; its settings are none"),
    ],
)
def test_a_setting_that_is_none_is_refused_in_one_line(name, given, message):
    with pytest.raises(InputError, match=re.escape(message)) as said:
        explainer_of(name, **given)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("name", "saw"),
    [
        ("logits:big", True),
        ("logits(n=20):big", True),
        ("max_activations:big", True),
        ("max_activations(logits=0):big", False),
        ("null:logits:big", True),
        ("cot(logits=10):big", True),
        ("refine(logits=5,chooser=small):big", True),
        ("refine(rounds=1,chooser=logits=9):big", False),
        ("debate(chooser=small):big", False),
        ("delimited:logits", False),
        ("delimited(threshold=0.6):org/model(v2)", False),
        ("rules", False),
        ("file:logits", False),
        ("null:rules", False),
        ("planted", False),
        ("", False),
    ],
)
def test_whether_an_explainer_saw_the_logits_is_in_its_name(name, saw):
    assert saw_logits(name) is saw


@given(st.sampled_from(sorted(EXPLAINERS)), st.integers(0, 3), st.text("ab/:()=,", max_size=9))
def test_the_name_always_tells_what_the_settings_say(name, logits, judge):
    kind = EXPLAINERS[name]
    given = {"path": "logits.csv"} if name == "file" else {}
    if "logits" in kind.model_fields and (logits or name != "logits"):
        given["logits"] = logits
    explainer = explainer_of(name, **given)
    assert saw_logits(explainer.name(judge)) == explainer.sees_logits


def test_logits_are_read_from_the_runs_table():
    rows = [
        {
            "hookpoint": "h",
            "latent": 3,
            "top_logits": "[[5, 1.5], [2, 0.5]]",
            "bottom_logits": "[[9, -2.0]]",
        },
        {"hookpoint": "h", "latent": 4},
    ]
    table = table_of("latents", rows)
    assert logits_of(table) == {3: Logits(((5, 1.5), (2, 0.5)), ((9, -2.0),))}


def test_delimited_with_everything_is_one_explainer():
    both = Delimited(values=True, cot=True, logits=5, silent=3)
    assert both.name("m") == "delimited(values=true,cot=true,logits=5,silent=3):m"
    assert both.sees_logits
