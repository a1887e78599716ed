"""Two sides on the same latents and examples: the planted difference is found, chance is not."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from glossator import cli_compare
from glossator.errors import InputError
from glossator.records import TABLES
from glossator.score import scores_from
from glossator.score.calibration import (
    Calibration,
    corrected_balanced_accuracy,
    corrected_share,
)
from glossator.score.compare import between_scorers, compare, correlation_figures

LATENTS = 30


def side(seed, skill, *, explainer="words", judge="judge", latents=range(LATENTS), nulls=False):
    """Tables of one explainer by one judge: right on a share `skill` of the examples.

    What is hard about an example is the same for all: half of what decides is the example's.
    """
    rng = np.random.default_rng(seed)
    tables = {name: [] for name in ("explanations", "examples", "verdicts")}
    for latent in latents:
        shared = np.random.default_rng([7, latent]).random(50)
        for name in (explainer, f"null:{explainer}") if nulls else (explainer,):
            explanation = f"{name}/{latent}"
            fields = {"explanation_id": explanation, "hookpoint": "h", "latent": latent}
            tables["explanations"].append({**fields, "explainer": name, "text": ""})
            for at in range(50):
                example = f"{latent}/{at}"
                truth = at < 25
                if name == explainer:
                    tables["examples"].append(
                        {
                            "example_id": example,
                            "hookpoint": "h",
                            "latent": latent,
                            "decile": 1 + at % 10 if truth else 0,
                            "document": at,
                        }
                    )
                rate = skill if name == explainer else 0.5
                right = bool((shared[at] if rng.random() < 0.5 else rng.random()) < rate)
                tables["verdicts"].append(
                    {
                        "explanation_id": explanation,
                        "protocol_id": f"protocol of {judge}",
                        "scorer": "detection",
                        "example_id": example,
                        "prompt_id": f"{explanation}/{at}",
                        "slot": 0,
                        "truth": truth,
                        "answer": truth == right,
                    }
                )
    made = {name: pa.Table.from_pylist(rows, schema=TABLES[name]) for name, rows in tables.items()}
    protocol = {"protocol_id": f"protocol of {judge}", "preset": "glossator", "judge": judge}
    made["protocols"] = pa.Table.from_pylist([protocol], schema=TABLES["protocols"])
    made["scores"] = scores_from(made["verdicts"], made["examples"])
    return made


def joined(*sides):
    return {name: pa.concat_tables([one[name] for one in sides]) for name in sides[0]}


def row_of(comparison, metric="balanced_accuracy"):
    (row,) = [row for row in comparison.means.to_pylist() if row["metric"] == metric]
    return row


def test_the_difference_is_that_of_the_means_over_common_latents():
    a, b = side(1, 0.85), side(2, 0.65, latents=range(5, LATENTS + 5))
    found = compare(a, b)
    row = row_of(found)
    values = [
        {
            s["explanation_id"].split("/")[1]: s["value"]
            for s in one["scores"].to_pylist()
            if (s["metric"], s["decile"]) == ("balanced_accuracy", 0)
        }
        for one in (a, b)
    ]
    common = values[0].keys() & values[1].keys()
    differences = [values[0][key] - values[1][key] for key in common]
    assert row["latents"] == len(common) == LATENTS - 5
    assert row["difference"] == pytest.approx(np.mean(differences))
    assert 0.1 < row["low"] < row["difference"] < row["high"] < 0.3
    assert (row["only_a"], row["only_b"]) == (5, 5)
    lonely = [one for one in found.one_sided.to_pylist() if one["metric"] == "balanced_accuracy"]
    assert [(one["side"], one["latent"]) for one in lonely] == [
        *(("A", latent) for latent in range(5)),
        *(("B", latent) for latent in range(LATENTS, LATENTS + 5)),
    ]


def test_each_latents_test_is_mcnemars_on_the_common_examples():
    a, b = side(3, 0.85), side(4, 0.6)
    found = compare(a, b).latents.to_pylist()
    assert len(found) == LATENTS
    answers = [
        {v["example_id"]: v["truth"] == v["answer"] for v in one["verdicts"].to_pylist()}
        for one in (a, b)
    ]
    for row in found:
        pairs = [
            (answers[0][key], answers[1][key])
            for key in answers[0]
            if key.startswith(f"{row['latent']}/")
        ]
        counted = [pairs.count(kind) for kind in ((1, 1), (1, 0), (0, 1), (0, 0))]
        assert [row[name] for name in ("both", "only_a", "only_b", "neither")] == counted
        assert row["n"] == sum(counted) == 50
        discordant = counted[1] + counted[2]
        expected = stats.binomtest(counted[1], discordant).pvalue if discordant else 1.0
        assert row["p_value"] == pytest.approx(expected)
    assert sum(row["q_value"] <= 0.05 for row in found) > 3


def test_two_of_one_skill_are_not_told_apart():
    held, called = 0, 0
    for seed in range(40):
        found = compare(side(2 * seed, 0.7), side(2 * seed + 1, 0.7))
        row = row_of(found)
        held += row["low"] <= 0 <= row["high"]
        called += any(one["q_value"] <= 0.05 for one in found.latents.to_pylist())
    assert held >= 34
    assert called <= 6


def test_one_run_is_told_apart_by_explainer_or_judge_and_its_null_is_left_out():
    words, more = side(5, 0.85, nulls=True), side(6, 0.6, explainer="cot", nulls=True)
    run = joined(words, more)
    row = row_of(compare(run, run, explainers=("words", "cot")))
    assert row["latents"] == LATENTS
    assert row["difference"] > 0.1
    null = row_of(compare(run, run, explainers=("words", "null:words")))
    assert null["b"] == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InputError, match=r"A: latent 0 of h has several .* explainer \(cot, words"):
        compare(run, words)
    judged = joined(side(7, 0.8), side(8, 0.7, judge="other"))
    assert row_of(compare(judged, judged, judges=("judge", "other")))["difference"] > 0
    assert row_of(compare(judged, judged, protocols=("protocol of j", "protocol of o")))["a"] > 0.7
    with pytest.raises(InputError, match=r"choose the judge \(judge, other\) or protocol"):
        compare(judged, judged)
    with pytest.raises(InputError, match="no score of explainer nobody"):
        compare(run, run, explainers=("words", "nobody"))


def test_correlations_equal_a_peers_and_their_intervals_hold_what_was_planted():
    rng = np.random.default_rng(9)
    held = {"pearson": [], "spearman": []}
    planted = {"pearson": 0.6, "spearman": 6 / np.pi * np.arcsin(0.3)}
    for _ in range(300):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T
        for name, figure in correlation_figures(x, y).items():
            held[name].append(figure.low <= planted[name] <= figure.high)
    found = correlation_figures(x, y)
    assert found["pearson"].value == pytest.approx(stats.pearsonr(x, y).statistic)
    ends = stats.pearsonr(x, y).confidence_interval()
    assert (found["pearson"].low, found["pearson"].high) == pytest.approx(tuple(ends))
    assert found["spearman"].value == pytest.approx(stats.spearmanr(x, y).statistic)
    for name in held:
        assert 0.92 <= np.mean(held[name]) <= 0.99
    assert correlation_figures(x[:3], y[:3])["pearson"].value is None


def test_scorers_are_correlated_over_latents():
    detection, fuzzing = side(10, 0.8), side(11, 0.8)
    verdicts = fuzzing["verdicts"]
    place = verdicts.column_names.index("scorer")
    verdicts = verdicts.set_column(place, "scorer", pa.array(["fuzzing"] * len(verdicts)))
    both = {**detection, "verdicts": pa.concat_tables([detection["verdicts"], verdicts])}
    both["scores"] = scores_from(both["verdicts"], both["examples"])
    (row,) = between_scorers(both).to_pylist()
    assert (row["scorer_a"], row["scorer_b"]) == ("detection", "fuzzing")
    assert row["latents"] == LATENTS
    assert row["pearson_low"] < row["pearson"] < row["pearson_high"]


def test_the_corrected_share_holds_what_was_planted_and_forgetting_the_calibration_does_not():
    rng, held, naive = np.random.default_rng(12), [], []
    fits, q1, q0 = 0.7, 0.85, 0.8
    for seed in range(400):
        calibration = Calibration(rng.binomial(60, q1), 60, rng.binomial(60, q0), 60)
        yes = rng.binomial(200, fits * q1 + (1 - fits) * (1 - q0))
        figure = corrected_share(yes, 200, calibration, seed=seed)
        held.append(figure.low <= fits <= figure.high)
        exact = Calibration(
            calibration.right_yes * 1000, 60_000, calibration.right_no * 1000, 60_000
        )
        alone = corrected_share(yes, 200, exact, seed=seed)
        naive.append(alone.low <= fits <= alone.high)
    assert 0.92 <= np.mean(held) <= 0.99
    assert np.mean(naive) < 0.92


def test_a_weak_judges_balanced_accuracy_is_corrected_to_the_strong_ones():
    calibration = Calibration(850, 1000, 800, 1000)
    draws = np.random.default_rng(13).normal(0.695, 0.01, 5_000)
    figure = corrected_balanced_accuracy(0.695, draws, calibration)
    assert figure.value == pytest.approx(0.8)
    assert figure.low < 0.8 < figure.high
    a, b = side(14, 0.85), side(15, 0.7)
    row = row_of(compare(a, b, calibrations=(None, calibration)))
    assert row["corrected_a"] is None
    assert row["corrected_b"] == pytest.approx(0.5 + (row["b"] - 0.5) / 0.65)
    assert row["corrected_b_low"] < row["corrected_b"] < row["corrected_b_high"]


def test_a_judge_that_guesses_corrects_nothing():
    calibration = Calibration(11, 20, 10, 20)
    assert "cannot be told from one that guesses" in corrected_share(5, 10, calibration).reason
    with pytest.raises(InputError, match="column `gold` is missing"):
        Calibration.of(pa.table({"answer": [True]}))
    with pytest.raises(InputError, match="some of both are needed"):
        Calibration.of(pa.table({"answer": [True, None], "gold": [True, False]}))
    table = pa.table({"gold": [True, True, False, False], "answer": [True, False, False, None]})
    assert Calibration.of(table) == Calibration(1, 2, 1, 1)


class Tables:
    """A run, as far as it is compared."""

    def __init__(self, tables):
        self.tables = tables

    def table(self, name):
        return self.tables[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def told(monkeypatch, runs, *arguments):
    """What `glossator compare` prints."""
    monkeypatch.setattr(cli_compare.Run, "open", lambda path: Tables(runs[str(path)]))
    app = typer.Typer()
    app.command()(cli_compare.compare_command)
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_command_prints_what_is_compared_and_writes_its_tables(monkeypatch, tmp_path):
    runs = {"one": side(16, 0.85), "two": side(17, 0.65, latents=range(3, LATENTS))}
    calibration = pa.table(
        {"gold": [True] * 50 + [False] * 50, "answer": ([True] * 4 + [False]) * 10 + [False] * 50}
    )
    pq.write_table(calibration, tmp_path / "gold.parquet")
    output = told(
        monkeypatch,
        runs,
        *("one", "two", "--out", tmp_path / "tables"),
        *("--calibration-b", tmp_path / "gold.parquet"),
    )
    row = row_of(compare(runs["one"], runs["two"]))
    assert f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" in output
    assert f"of {LATENTS - 3} latents with common examples A is right more often" in output
    assert "of two without its judge's errors: 0." in " ".join(output.split())
    written = pq.read_table(tmp_path / "tables" / "means.parquet")
    (kept,) = [one for one in written.to_pylist() if one["metric"] == "balanced_accuracy"]
    assert kept["difference"] == row["difference"]
    assert pq.read_table(tmp_path / "tables" / "one_sided.parquet")["latent"].to_pylist()[:1] == [0]


def test_the_command_compares_two_names_of_one_run_as_json(monkeypatch):
    run = joined(side(18, 0.85), side(19, 0.6, explainer="cot"))
    output = told(
        monkeypatch, {"run": run}, "words", "cot", "--by", "explainer", "--run", "run", "--json"
    )
    said = json.loads(output)
    assert {row["metric"] for row in said["means"]} >= {"balanced_accuracy", "recall"}
    with pytest.raises(InputError, match="--by and --run go together"):
        told(monkeypatch, {"run": run}, "words", "cot", "--by", "explainer")
    with pytest.raises(InputError, match="--judge: A and B name it"):
        told(monkeypatch, {}, "a", "b", "--by", "judge", "--run", "run", "--judge", "x")
