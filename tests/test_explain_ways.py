"""Each way of showing a latent shows what it says, whatever stands in the text."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asked_judges import Knowing, explained_as
from byte_texts import byte_index
from glossator.errors import InputError
from glossator.explain import (
    EXPLAINERS,
    POST,
    Activations,
    ChainOfThought,
    Contrastive,
    Delimited,
    Logits,
    MaxActivations,
    TokenActivations,
    TopLogits,
    explain,
    explainer_of,
)
from glossator.explain.explainers import Reader
from glossator.explain.pairs import pair_lines, read_pairs
from glossator.explain.quotes import plain_text
from glossator.explain.shots import GIVES_LOGITS, PLAIN, passage_of
from glossator.explain.views import Passage, View, levels, signs
from glossator.judges.base import Answer, Failure
from glossator.sampling import ExplainPlan, SamplingPlan
from glossator.shown import Shown
from stop_world import documents_in, on_explain_side, stop_index

READERS = [kind() for kind in EXPLAINERS.values() if issubclass(kind, Reader)]
LOGITS = Logits(((5, 2.0), (6, 1.5), (7, 1.0)), ((8, -2.0), (9, -1.0)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return stop_index(tmp_path_factory.mktemp("stop") / "index")


hostile = st.text(
    st.sampled_from(
        [*"ab <>\\¶⏎␍⇥\t\n\r\"'{}:|", "é", "東", "😀", "ש", "\u202e", "\u2028", "\x85"]
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def passages(draw):
    """Tokens, some of several to a character, with activations and document starts."""
    pieces, heads = [], []
    for text in draw(st.lists(hostile, min_size=1, max_size=10)):
        head = len(pieces)
        rest = draw(st.integers(0, 2))
        pieces += [text, *[""] * rest]
        heads += [head] * (1 + rest)
    n = len(pieces)
    starts = tuple(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    strengths = st.one_of(st.just(0.0), st.floats(2.0**-20, 1e6, width=32))
    values = draw(st.lists(strengths, min_size=n, max_size=n))
    shown = Shown(tuple(pieces), tuple(heads), starts, (True,) * n)
    return Passage(shown, np.array(values, np.float32))


def view(*shown, **more):
    return View("hook", 7, 0, tuple(shown), lambda token: f"␣t{token}", **more)


@given(passages(), st.floats(0, 0.99))
def test_marks_are_above_the_share_of_the_passages_maximum_and_nowhere_else(passage, threshold):
    peak = passage.activations.max()
    marks = set(passage.marks(threshold))
    for offset, value in enumerate(passage.activations):
        assert (offset in marks) == (value > 0 and value > threshold * peak)


@given(passages(), st.floats(2.0**-20, 1e6))
def test_levels_are_0_where_silent_and_10_at_the_maximum_and_keep_the_order(passage, peak):
    values = passage.activations.astype(float)
    found = levels(passage, peak)
    assert ((found == 0) == (values == 0)).all()
    assert found.max() <= 10
    order = np.argsort(values)
    assert (np.diff(found[order]) >= 0).all()
    own = levels(passage, 0.0)
    assert own.max() == (10 if values.any() else 0)
    most = max(peak, values.max())
    near = np.abs(found - values / most * 10)
    assert (near <= 1.0 + 1e-6).all()


def test_levels_are_rounded_up():
    passage = Passage(
        Shown(("a",) * 5, (0, 1, 2, 3, 4), (False,) * 5, (True,) * 5),
        np.array([0, 1e-3, 3.0, 3.1, 10], np.float32),
    )
    assert levels(passage, 10.0).tolist() == [0, 1, 3, 4, 10]


@given(passages())
def test_signs_are_the_text_each_with_the_largest_level_of_its_tokens(passage):
    found = signs(passage, 0.0)
    assert "".join(sign.text for sign in found) == passage.shown.text
    level = levels(passage, 0.0)
    for sign in found:
        own = [at for at, head in enumerate(passage.shown.heads) if head == sign.offset]
        assert sign.level == max(level[own])


@given(st.lists(passages(), min_size=1, max_size=4), st.floats(0, 0.9))
def test_passages_can_be_read_back_from_the_prompt(shown, threshold):
    explainer = Activations(threshold=threshold, silent=2)
    peak = max(float(passage.activations.max()) for passage in shown)
    prompt = explainer.prompt(view(*shown, peak=peak, silent=tuple(shown[:2])))
    lines = prompt.user.split("\n")
    assert len(lines) == 2 * len(shown) + len(shown[:2])
    for number, passage in enumerate(shown, start=1):
        name, line = lines[2 * number - 2].split(": ", 1)
        assert name == f"Example {number}"
        assert plain_text(line) == passage.shown.text
        name, line = lines[2 * number - 1].split(": ", 1)
        assert name == f"Values {number}"
        found = json.loads("[" + re.sub(r'("(?:[^"\\]|\\.)*") (\d+)', r"[\1, \2]", line) + "]")
        marked = set(passage.shown.whole(passage.marks(threshold)))
        assert found == [
            [sign.text, sign.level] for sign in signs(passage, peak) if sign.offset in marked
        ]
    for number, passage in enumerate(shown[:2], start=1):
        name, line = lines[2 * len(shown) + number - 1].split(": ", 1)
        assert name == f"Silent {number}"
        assert plain_text(line) == passage.shown.text


@given(passages())
def test_pairs_of_token_and_activation_can_be_read_back(passage):
    found = signs(passage, 0.0)
    lines = pair_lines(found)
    assert read_pairs(lines) == [(sign.text, sign.level) for sign in found]
    for line in lines.split("\n") if found else []:
        assert line.count("\t") == 1
        assert line.split("\t")[1] in map(str, range(11))


@given(passages(), st.integers(1, 4))
def test_short_texts_are_around_the_peak_which_alone_is_marked(passage, around):
    prompt = MaxActivations(around=around).prompt(view(passage))
    line = prompt.user.split("TEXTS:\n")[1]
    assert "\n" not in line
    text = passage.shown.text
    assert plain_text(line) in text
    sign = passage.shown.pieces[passage.shown.heads[passage.peak]]
    # A sign of the text that looks like a mark has a backslash before it.
    marked = re.match(r"(?s)(?:\\.|(?!<<)[^\\])*<<(.*)>>", line)
    assert plain_text(marked[1] if marked else "") in (sign, sign.lstrip(" "), "")


def test_the_worked_examples_are_shown_as_a_latent_is():
    for shot in (*PLAIN, GIVES_LOGITS):
        for passage in shot.active:
            assert passage.activations.any()
        for passage in shot.silent:
            assert not passage.activations.any()
    one = passage_of("¶The ferry leaves at{ seven:9} and{ ten:3}")
    assert one.shown.render(one.marks(0.3)) == "¶The ferry leaves at <<seven>> and <<ten>>"
    assert one.shown.render(one.marks(0.5)) == "¶The ferry leaves at <<seven>> and ten"


@pytest.mark.parametrize("explainer", READERS, ids=lambda one: one.label)
def test_a_worked_example_has_the_shape_of_the_question_and_of_the_answer(explainer):
    one = view(*PLAIN[0].active, peak=10.0, silent=PLAIN[0].silent, logits=LOGITS)
    prompt = explainer.prompt(one)
    shape = re.compile(r"^(?:\w+ ?)+?(?=[ \d]*:)", re.MULTILINE)
    for question, answer in prompt.shots:
        if not isinstance(explainer, TokenActivations):
            assert set(shape.findall(question)) == set(shape.findall(prompt.user))
        assert explainer.read(Answer(answer)) == json.loads(answer)["explanation"]
        assert set(json.loads(answer)) == set(explainer.form["properties"])
    assert prompt.group == "hook/7"
    assert prompt.label == "latent 7, explanation"
    # What all latents share comes before the question.
    assert explainer.prompt(view(*PLAIN[1].active, peak=10.0, logits=LOGITS)).shots == prompt.shots


def test_what_is_shown_is_what_the_name_says():
    one = view(*PLAIN[0].active, peak=10.0, silent=PLAIN[0].silent, logits=LOGITS)
    parts = {"Values 1": "values", "Silent 1": "silent", "More likely": "logits"}
    for kind, there in [
        (Delimited, set()),
        (ChainOfThought, set()),
        (Activations, {"values"}),
        (TopLogits, {"logits"}),
        (Contrastive, {"silent"}),
    ]:
        prompt = kind().prompt(one)
        assert {what for words, what in parts.items() if words in prompt.user} == there
    every = explainer_of("cot", values="true", logits="2", silent="1").prompt(one)
    assert all(words in every.user for words in parts)
    assert 'More likely: "␣t5" "␣t6"\nLess likely: "␣t8" "␣t9"' in every.user
    assert "four steps" in every.system
    assert "four steps" not in Delimited().prompt(one).system


def test_values_are_out_of_the_latents_maximum_not_the_passages():
    weak = passage_of("the{ cat:2} sat")
    assert 'Values 1: " cat" 2' in Activations().prompt(view(weak, peak=10.0)).user
    assert 'Values 1: " cat" 10' in Activations().prompt(view(weak, peak=0.0)).user


def test_lists_name_peaks_what_follows_and_what_is_promoted():
    one = view(*PLAIN[0].active, logits=LOGITS)
    lines = MaxActivations(logits=2).prompt(one).user.split("\n")
    assert lines[0] == 'PEAKS: "␣seven" "␣four" "␣twelve" "␣three"'
    assert lines[1] == 'AFTER: "␣and" "␣of" "␣years" "␣students"'
    assert lines[2] == 'PROMOTED: "␣t5" "␣t6"'
    assert lines[3] == "TEXTS:"
    assert lines[4] == "¶The ferry leaves at <<seven>> and returns before"
    without = MaxActivations(logits=0).prompt(view(*PLAIN[0].active))
    assert "PROMOTED" not in without.user
    assert all("PROMOTED" not in question for question, _ in without.shots)
    last = passage_of("it ends{ here:9}")
    assert "AFTER" not in MaxActivations().prompt(view(last, logits=LOGITS)).user


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (explained_as("numbers", tokens="a", shared="b", promoted="c"), "numbers"),
        ("First, look.\n\nSecond: think.\nnumbers in words\n", "numbers in words"),
        ("I see.\nExplanation: numbers", "numbers"),
        ("Step 1 ...\nExplanation: no\nStep 4\nExplanation:\nnumbers", "numbers"),
    ],
)
def test_of_a_thought_aloud_the_field_the_marker_or_the_last_line_counts(said, expected):
    assert ChainOfThought().read(Answer(said)) == expected


@pytest.mark.parametrize(
    "said", ['{"explanation": 3}', '{"explanation": "cut off', '{"text": "numbers"}', '{"a"} no']
)
def test_broken_json_is_no_explanation(said):
    for explainer in READERS:
        failure = explainer.read(Answer(said))
        assert isinstance(failure, Failure)
        assert failure.kind == "malformed"


@given(st.text())
def test_whatever_is_said_becomes_one_line_or_a_typed_failure(said):
    for explainer in (Delimited(), ChainOfThought()):
        text = explainer.read(Answer(said))
        if isinstance(text, Failure):
            assert text.kind in ("empty", "malformed")
        else:
            assert text == " ".join(text.split())
            assert text


def asked_of(world, explainer, latents=(0,), **options):
    index, text = world
    judge = Knowing(lambda prompt, choices: explained_as("something"))
    options.setdefault("logits", dict.fromkeys(range(4), LOGITS))
    explained = explain(index, latents, explainer=explainer, judge=judge, text=text, **options)
    return explained, judge


@pytest.mark.parametrize(
    "explainer",
    [one for one in READERS if one.label not in ("refine", "debate")],
    ids=lambda one: one.label,
)
def test_everyone_is_shown_the_explain_side_alone(world, explainer):
    explained, judge = asked_of(world, explainer, [0, 1])
    assert [e.explainer for e in explained.explanations] == [f"{explainer.label}:known"] * 2
    assert [prompt.group for prompt in judge.asked] == ["model.layers.3/0", "model.layers.3/1"]
    for prompt in judge.asked:
        shown = documents_in(prompt.user)
        assert on_explain_side(shown)
    assert judge.schemas[0] == explainer.form


def test_negatives_shown_are_hard_and_silent(world):
    _, judge = asked_of(world, Contrastive(silent=6))
    silent = re.findall(r"^Silent \d+: (.*)$", judge.asked[0].user, re.MULTILINE)
    assert len(silent) == 6
    for line in silent:
        assert " stop" in line
        assert not re.search(r"(don't|won't) stop", line)
        assert "<<" not in line
    assert on_explain_side(documents_in(" ".join(silent)))
    # Active in every window, it has none; what is shown is the rest.
    _, judge = asked_of(world, Contrastive(), [2])
    assert "Silent" not in judge.asked[0].user


def test_settings_say_what_is_drawn_before_the_plan_does(world):
    def shown(explainer, plan=None):
        _, judge = asked_of(world, explainer, plan=plan)
        return re.findall(r"^Example \d+: (.*)$", judge.asked[0].user, re.MULTILINE)

    assert len(shown(Delimited())) == 40
    plan = SamplingPlan(explain=ExplainPlan(kind="top", n=7))
    top = shown(Delimited(), plan)
    assert len(top) == 7
    assert shown(Delimited(n=3), plan) == top[:3]
    assert shown(Delimited(draw="top", n=7)) == top
    assert sorted(shown(Delimited(draw="uniform"), plan)) != sorted(top)
    assert len(shown(Delimited(draw="mixture", n=5))) == 5
    for line in shown(POST):
        assert len(line.replace("<<", "").replace(">>", "").replace("¶", "").split()) == 20


def test_the_posts_settings_are_these():
    assert POST.model_dump(exclude_none=True) == {
        "n": 20,
        "draw": "uniform",
        "length": 20,
        "threshold": 0.6,
        "values": True,
        "cot": False,
        "logits": 0,
        "silent": 0,
    }


def test_the_peak_is_the_latents_on_the_explain_side(world):
    index, _ = world
    _, judge = asked_of(world, Activations(draw="top", n=3))
    values = re.findall(r"^Values \d+: \" stop\" (\d+)$", judge.asked[0].user, re.MULTILINE)
    assert values[0] == "10"
    top = index.top([0], 1, "explain").activation[0]
    examples = index.sample([0], SamplingPlan(per_decile=0, negatives=()))
    _, judge = asked_of(world, Activations())
    values = re.findall(r"^Values \d+: \" stop\" (\d+)$", judge.asked[0].user, re.MULTILINE)
    expected = np.ceil(examples.activations.max(axis=1) / top * 10 - 1e-6)
    assert list(map(int, values)) == np.clip(expected, 1, 10).astype(int).tolist()


def test_without_logits_an_explainer_that_needs_them_says_so(world):
    for explainer in (TopLogits(), MaxActivations(), Delimited(logits=3)):
        with pytest.raises(InputError, match=rf"explainer `{explainer.label}`: needs `logits`"):
            asked_of(world, explainer, logits=None)
    explained, judge = asked_of(world, TopLogits(), [0, 1], logits={1: LOGITS})
    assert [(f.latent, f.reason) for f in explained.failures] == [
        (0, "the tokens that it promotes are not known")
    ]
    assert len(judge.asked) == len(explained.explanations) == 1


def test_thinking_aloud_may_take_longer_than_saying():
    assert Delimited().longest < ChainOfThought().longest == Delimited(cot=True).longest
    assert ChainOfThought(max_tokens=50).longest == 50


TEXTS = [
    "def f(x): ⏎<<x>>\\",
    "😀 emoji 東京 👩‍👩‍👧",
    "שלום עולם abc",
    "a\n\n\tb\r\nc",
    "x << y >> z",
]


@pytest.mark.parametrize("kind", [Delimited, Activations, TokenActivations, MaxActivations])
def test_characters_split_over_tokens_are_shown_whole(tmp_path, kind):
    texts = [f"{text} {number}" for number in range(12) for text in TEXTS]
    lengths = [len(text.encode()) for text in texts]
    active = [(row, offset) for row, n in enumerate(lengths) for offset in range(row % 5, n, 5)]
    index, text = byte_index(tmp_path / "index", texts, active, length=48, window=48)
    judge = Knowing(lambda prompt, choices: explained_as("all of it"))
    explained = explain(
        index, [0], explainer=kind(n=60), judge=judge, text=text, logits={0: LOGITS}
    )
    assert len(explained.explanations) == 1
    (prompt,) = judge.asked
    assert "\ufffd" not in prompt.user
    if kind is Delimited:
        shown = re.findall(r"^Example \d+: (.*)$", prompt.user, re.MULTILINE)
        assert shown
        assert {plain_text(line) for line in shown} <= set(texts)
    if kind is TokenActivations:
        bodies = re.split(r"(?:^|\n\n)Text \d+\n", prompt.user)[1:]
        found = {"".join(piece for piece, _ in read_pairs(body)) for body in bodies}
        assert found <= set(texts)
