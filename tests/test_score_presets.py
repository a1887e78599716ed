"""What each preset draws, shows and asks; prompts with one passage and their probabilities."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from glossator.errors import InputError
from glossator.explain import explainer_of
from glossator.judges.base import Answer
from glossator.judges.openai_server import OpenAIJudge
from glossator.records import Explanation
from glossator.sampling import NegativePlan, SamplingPlan
from glossator.score import PRESETS, SCORERS, ScoringOptions, score, scorer_of, scoring_protocol
from glossator.score.detection import TEMPLATE, DetectionOptions
from glossator.score.fuzzing import TEMPLATE as FUZZING
from glossator.score.questions import yes_or_no
from judge_servers import ChatServer, coin
from planted import (
    HOOKPOINT,
    PlantedJudge,
    answering,
    planted_explanations,
    planted_index,
    truth_of,
    weighing,
)


class Near:
    """Neighbours of planted latents: those that come next."""

    def __init__(self, latents):
        steps = np.arange(1, latents)[None, :]
        self.ids = ((np.arange(latents)[:, None] + steps) % latents).astype(np.uint32)
        self.relation = np.zeros(self.ids.shape, np.uint8)
        self.coder_hash = "aa"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_index(tmp_path_factory.mktemp("planted") / "index", latents=14, per_decile=40)


def right(description, line):
    truth, decile = truth_of(description, line)
    return truth, truth, decile


def asked_of(planted, judged=right, latents=(0, 1), judge=None, **options):
    judge = judge or PlantedJudge(judged)
    index, text = planted
    explanations = planted_explanations(latents)
    scored = score(index, explanations, judge=judge, text=text, neighbours=Near(14), **options)
    return scored, judge.asked


def rows_of(scored, scorer, latent=0):
    (explanation,) = planted_explanations([latent])
    return [
        row
        for row in scored.verdicts.to_pylist()
        if (row["scorer"], row["explanation_id"]) == (scorer, explanation.explanation_id)
    ]


def test_glossator_asks_about_25_and_25_one_a_prompt_five_of_each_pair_of_deciles(planted):
    # The planted text repeats no peak's token in silent windows: all silent ones are random here.
    plan = PRESETS["glossator"].plan
    assert [(one.kind, one.n) for one in plan.negatives] == [("random", 13), ("peak_token", 12)]
    plan = plan.model_copy(update={"negatives": (NegativePlan(n=25),)})
    scored, asked = asked_of(planted, plan=plan, options=PRESETS["glossator"].options)
    assert len(asked) == 2 * 2 * 50
    decile = {row["example_id"]: row["decile"] for row in scored.examples.to_pylist()}
    for scorer in ("detection", "fuzzing"):
        for latent in (0, 1):
            rows = rows_of(scored, scorer, latent)
            assert Counter(row["truth"] for row in rows) == {True: 25, False: 25}
            shown = Counter((decile[row["example_id"]] + 1) // 2 for row in rows if row["truth"])
            assert shown == dict.fromkeys(range(1, 6), 5)
            assert all(row["answer"] == (row["p_yes"] > 0.5) for row in rows)
    both = [{row["example_id"] for row in rows_of(scored, s) if row["truth"]} for s in SCORERS[:2]]
    assert both[0] == both[1]
    wrong = [row for row in rows_of(scored, "fuzzing") if not row["truth"]]
    shown = Counter((decile[row["example_id"]] + 1) // 2 for row in wrong)
    assert shown == dict.fromkeys(range(1, 6), 5)
    assert not both[0] & {row["example_id"] for row in wrong}
    # Neither decile of a pair is always the one with three.
    kept = {
        tuple(
            sorted(
                Counter(decile[r["example_id"]] for r in rows_of(scored, "detection", n)).items()
            )
        )
        for n in (0, 1)
    }
    assert len(kept) == 2


def test_of_glossators_silent_windows_twelve_hold_a_token_of_a_peak(tmp_path):
    index, text = planted_index(tmp_path / "index", latents=8, per_decile=30)
    scored = score(index, planted_explanations([0]), judge=PlantedJudge(right), text=text)
    kinds = Counter(row["kind"] for row in scored.examples.to_pylist() if not row["decile"])
    assert kinds["random"] == 13
    assert scored.protocol.preset == "glossator"
    assert scored.protocol.parameters["clusters"] == "document"
    assert scored.protocol.parameters["strata"] == "quintile"


def test_post_judges_the_same_fifty_windows_twice_so_that_four_outcomes_exist(planted):
    def half(description, line):
        return (coin(0.5, description, line),)

    scored, asked = asked_of(planted, half, preset="post", scorers=("detection", "fuzzing"))
    assert len(asked) == 2 * (14 + 14)
    assert {len(prompt.shots) for prompt in asked} == {3}
    assert scored.protocol.preset == "post"
    example = {row["example_id"]: row for row in scored.examples.to_pylist()}
    detected = {r["example_id"]: r["answer"] for r in rows_of(scored, "detection") if r["truth"]}
    marked = {r["example_id"]: r["answer"] for r in rows_of(scored, "fuzzing") if r["truth"]}
    assert detected.keys() == marked.keys()
    assert Counter(example[key]["decile"] for key in detected) == dict.fromkeys(range(1, 11), 5)
    outcomes = Counter((detected[key], marked[key]) for key in detected)
    assert len(outcomes) == 4
    wrong = [row for row in rows_of(scored, "fuzzing") if not row["truth"]]
    assert Counter(example[r["example_id"]]["decile"] for r in wrong) == dict.fromkeys(
        range(1, 11), 2
    )
    assert {len(row["tokens"]) for row in example.values()} == {20}
    # Its silent windows are of contexts in which the latent is silent throughout.
    index, _ = planted
    positions, _ = index.postings(0)
    active = set((positions // np.uint64(index.context_length)).tolist())
    silent = [e for e in example.values() if not e["decile"] and e["latent"] == 0]
    assert len(silent) == 20
    assert not active & {row["context"] for row in silent}


def test_posts_neighbours_are_the_ten_strongest_windows_of_each_of_the_ten_nearest(planted):
    scored, _ = asked_of(planted, preset="post", scorers=("neighbours",), latents=(0,))
    example = {row["example_id"]: row for row in scored.examples.to_pylist()}
    rows = rows_of(scored, "neighbours")
    of = Counter(example[r["example_id"]]["source_latent"] for r in rows if not r["truth"])
    # Planted latents share windows, and none is shown twice: then the next nearest help.
    assert sum(of.values()) > 95
    assert max(of.values()) == of[1] == 10
    assert all(of[neighbour] >= 5 for neighbour in range(1, 11))
    assert sum(row["truth"] for row in rows) == 50
    assert scored.protocol.preset == "post"


def test_delphi_marks_silent_windows_wrongly_and_saebench_puts_fourteen_in_one_prompt(planted):
    scored, _ = asked_of(planted, preset="delphi", latents=(0,))
    assert Counter(row["truth"] for row in rows_of(scored, "detection")) == {True: 50, False: 50}
    assert Counter(row["truth"] for row in rows_of(scored, "fuzzing")) == {True: 50, False: 50}
    silent = [r["example_id"] for r in scored.examples.to_pylist() if not r["decile"]]
    assert {r["example_id"] for r in rows_of(scored, "fuzzing") if not r["truth"]} == set(silent)

    scored, asked = asked_of(planted, preset="saebench", latents=(0,))
    assert len(asked) == 1
    rows = rows_of(scored, "detection")
    assert Counter(row["truth"] for row in rows) == {True: 4, False: 10}
    example = {row["example_id"]: row for row in scored.examples.to_pylist()}
    assert {len(row["tokens"]) for row in example.values()} == {21}
    peaks = {key: max(row["activations"]) for key, row in example.items() if row["decile"]}
    strongest = set(sorted(peaks, key=peaks.get)[-2:])
    assert strongest < {row["example_id"] for row in rows if row["truth"]}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_everything_and_stands_in_its_protocol(planted, name):
    preset = PRESETS[name]
    index, _ = planted
    protocol = scoring_protocol(index, "judge", preset=name)
    assert protocol.preset == name
    assert set(protocol.parameters["scorers"]) == set(SCORERS)
    assert protocol.parameters["per_decile"] == preset.plan.per_decile
    explainer = explainer_of(preset.explainer, **preset.explainer_settings)
    drawn = explainer.wants(preset.plan).plan.explain
    assert (drawn.n, drawn.kind) == (preset.plan.explain.n, preset.plan.explain.kind)
    assert explainer.wants(None).plan.explain.n == preset.plan.explain.n
    # The same things said one by one are the same protocol; others are another.
    whole = scoring_protocol(index, "judge", preset=name, plan=preset.plan, options=preset.options)
    assert whole == protocol
    for scorer in ("detection", "fuzzing"):
        scorer_of(scorer, preset.options).refuse(preset.plan, PlantedJudge(right).capabilities)
    other = preset.plan.model_copy(update={"per_decile": 20})
    changed = scoring_protocol(index, "judge", preset=name, plan=other)
    assert changed.preset == "custom"
    assert changed.protocol_id != protocol.protocol_id
    assert len({scoring_protocol(index, "judge", preset=one).protocol_id for one in PRESETS}) == 4


def test_unknown_names_and_what_a_scorer_lacks_are_said():
    with pytest.raises(InputError, match="preset `best`: unknown; known are glossator, post"):
        scoring_protocol(None, "judge", preset="best")
    with pytest.raises(InputError, match="scorer `generation`: needs `activations`"):
        scorer_of("generation")
    with pytest.raises(
        InputError, match="scorer `output`: needs `promoted`, `token_name`, `saw_logits`"
    ):
        scorer_of("output")
    with pytest.raises(ValueError, match="counted one way"):
        ScoringOptions(detection=DetectionOptions(per_prompt=1))


# --- one passage a prompt


def test_before_the_passage_all_prompts_about_an_explanation_are_token_by_token_the_same(planted):
    _, asked = asked_of(planted, preset="glossator")
    words = [prompt.user + prompt.system for prompt in asked]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(words, trainers.BpeTrainer(vocab_size=2_000, show_progress=False))
    heads = {}
    for prompt in asked:
        head, passage = prompt.user.split("Passage:\n")
        shared = [*prompt.messages()[:-1], {"role": "user", "content": head + "Passage:\n"}]
        text = "\n".join(f"<{turn['role']}>{turn['content']}" for turn in shared)
        ids, whole = bpe.encode(text).ids, bpe.encode(text + passage).ids
        assert whole[: len(ids)] == ids
        heads.setdefault((prompt.system, prompt.group), set()).add(tuple(ids))
    assert len(heads) == 4
    assert all(len(those) == 1 for those in heads.values())
    # Instructions, worked examples, explanation, passage: two latents part at the explanation.
    (first,), (second,) = (heads[TEMPLATE.task_of_one, f"{HOOKPOINT}/{n}"] for n in (0, 1))
    shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    assert shared > 0.95 * len(first) - 8


def test_one_latents_prompts_come_together(planted):
    _, asked = asked_of(planted, latents=range(14))
    groups = [prompt.group for prompt in asked]
    assert len([1 for a, b in pairwise(groups) if a != b]) < 14 + 4


def test_p_yes_is_renormalised_and_yes_is_above_one_half(planted):
    index, text = planted
    p_of = lambda description, line: 0.05 + 0.9 * coin(0.5, line) * coin(0.9, description, line)  # noqa: E731
    with ChatServer(weighing(p_of), logprobs=True) as server:
        judge = OpenAIJudge(server.url, server.model)
        scored = score(index, planted_explanations([0]), judge=judge, text=text)
        assert all(request.choices == ("yes", "no") for request in server.asked)
        assert all(request.body["logprobs"] for request in server.asked)
    rows = scored.verdicts.to_pylist()
    assert len(rows) > 80
    for row in rows:
        assert row["answer"] == (row["p_yes"] > 0.5)
        assert min(abs(row["p_yes"] - p) for p in (0.05, 0.95)) < 1e-6


def test_a_judge_without_probabilities_is_taken_at_its_word(planted):
    index, text = planted
    with ChatServer(answering(right)) as server:
        judge = OpenAIJudge(server.url, server.model)
        scored = score(index, planted_explanations([0]), judge=judge, text=text)
    rows = scored.verdicts.to_pylist()
    assert all(row["answer"] == row["truth"] and row["p_yes"] is None for row in rows)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("yes"), (True, None)),
        (Answer(" No."), (False, None)),
        (Answer("**Yes**, because"), (True, None)),
        (Answer("no", probabilities={"yes": 0.5, "no": 0.5}), (False, 0.5)),
        (Answer("no", probabilities={"yes": 0.3, "no": 0.1}), (True, 0.75)),
        (Answer("no", probabilities={"yes": 0.0, "no": 0.0}), (False, None)),
    ],
)
def test_how_a_word_is_read(answer, expected):
    said, p_yes = yes_or_no(answer)
    assert (said, p_yes) == (expected[0], expected[1] and pytest.approx(expected[1]))


@pytest.mark.parametrize("text", ["maybe", "", "nothing fits", "yesterday", "[true]", "I say yes"])
def test_what_is_neither_yes_nor_no_is_no_answer(text):
    assert yes_or_no(Answer(text)).kind == "malformed"


def test_what_neighbours_asks_of_activating_windows_is_what_detection_asked(planted):
    _, asked = asked_of(planted, preset="glossator", scorers=("detection", "neighbours"))
    put = {"detection": set(), "neighbours": set()}
    for prompt in asked:
        put[prompt.label.split(", ")[1]].add(json.dumps(prompt.messages()))
    assert len(put["detection"] & put["neighbours"]) == 2 * 25


def test_detection_leaves_the_hard_negatives_to_neighbours(planted):
    negatives = (NegativePlan(n=10), NegativePlan(kind="decoder_unfiltered", n=12, ranks=(1, 3)))
    plan = SamplingPlan(per_decile=5, negatives=negatives)
    scored, _ = asked_of(planted, plan=plan, latents=(0,))
    kind = {row["example_id"]: row["kind"] for row in scored.examples.to_pylist()}
    for scorer, expected in (
        ("detection", {"random": 10}),
        ("neighbours", {"decoder_unfiltered": 12}),
    ):
        rows = [row for row in rows_of(scored, scorer) if not row["truth"]]
        assert Counter(kind[row["example_id"]] for row in rows) == expected
    with pytest.raises(InputError, match="no `negatives` are of kind"):
        asked_of(planted, plan=SamplingPlan(), scorers=("neighbours",))


def test_worked_examples_of_one_passage_are_those_of_several():
    for template in (TEMPLATE, FUZZING):
        one, several = (template.prompt("x", [" y"], several=s) for s in (False, True))
        assert len(several.shots) == 3
        lines = [line for _, those, _ in template.shots for line in those.split("\n")]
        assert [shot[0].split("Passage:\n")[1] for shot in one.shots] == lines
        answers = [json.loads(answer) for _, answer in several.shots]
        assert [a == "yes" for _, a in one.shots] == [a for those in answers for a in those]
        assert one.system != several.system


def test_two_explanations_of_a_latent_see_the_same_passages(planted):
    index, text = planted
    pair = [Explanation.of(HOOKPOINT, 1, "a", "latent 1"), Explanation.of(HOOKPOINT, 1, "b", "x")]
    judge = PlantedJudge(lambda description, line: 0.25)
    scored = score(index, pair, judge=judge, text=text)
    shown = [
        {
            (r["scorer"], r["example_id"], str(r["marks"]))
            for r in scored.verdicts.to_pylist()
            if r["explanation_id"] == one.explanation_id
        }
        for one in pair
    ]
    assert shown[0] == shown[1]
    assert math.isclose(scored.verdicts["p_yes"][0].as_py(), 0.25)
