"""What a run cost: the ledger by method, and dollars per million latents at dated prices."""

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.config import RunConfig, save_config
from glossator.cost import PRICES, ApiPrice, MachinePrice, Prices, costs, load_prices, methods
from glossator.errors import InputError
from glossator.records import LedgerEntry, table_of
from glossator.store import Store
from tiny_runs import command


def _entry(name, prompt, completion, **fields):
    stage = "explain" if name.startswith("Expl") else "score"
    return LedgerEntry(
        stage=stage,
        scorer=name,
        requests=1,
        prompt_tokens=prompt,
        unique_prompt_tokens=prompt - fields.get("cached_tokens", 0),
        completion_tokens=completion,
        **fields,
    )


def test_the_posts_own_prices_come_out_of_its_token_counts():
    # Tokens and dollars of the post's two tables, of 30 July 2024: its token counts are means over
    # latents, here a hundred of them together. Its scoring row pays for one prompt of five.
    ledger = table_of(
        "ledger",
        [
            _entry("Explanation", 96_345, 2_990, latent=0, verdicts=100),
            _entry("Detection", 77_813, 1_199, latent=0, verdicts=500),
            _entry("Simulation", 2_407_485, 159_810, latent=0, verdicts=500),
        ],
    )
    prices = Prices(
        date="2024-07-30",
        api=(
            ApiPrice(name="GPT 4o mini", prompt=0.15, completion=0.60),
            ApiPrice(name="Claude 3.5 Sonnet", prompt=3.0, completion=15.0),
        ),
    )
    found = {(line.method, line.price): line for line in costs(methods(ledger), prices)}
    said = {
        ("Explanation", "GPT 4o mini"): 160,
        ("Explanation", "Claude 3.5 Sonnet"): 3_400,
        ("Detection", "GPT 4o mini"): 125,
        ("Detection", "Claude 3.5 Sonnet"): 2_540,
        ("Simulation", "GPT 4o mini"): 4_700,
        ("Simulation", "Claude 3.5 Sonnet"): 96_000,
    }
    assert set(found) == set(said)
    for key, dollars in said.items():
        assert found[key].dollars / 100 == pytest.approx(dollars, rel=0.03)
    assert found["Detection", "GPT 4o mini"].verdicts / 100 == 5


def test_cached_tokens_and_machine_hours_have_their_own_prices():
    entries = [
        _entry("detection", 1000, 10, latent=7, cached_tokens=600, seconds=3.0, verdicts=5),
        _entry("detection", 3000, 30, latent=9, cached_tokens=1400, seconds=5.0, verdicts=15),
    ]
    (method,) = methods(table_of("ledger", entries))
    assert (method.latents, method.verdicts.mean, method.seconds.mean) == (2, 10, 4.0)
    assert method.unique.mean == 1000
    assert method.seconds.deviation == pytest.approx(2**0.5)
    prices = Prices(
        date="2026-01-01",
        api=(
            ApiPrice(name="all alike", prompt=1.0, completion=2.0),
            ApiPrice(name="cached", prompt=1.0, completion=2.0, cached=0.1),
        ),
        machine=(MachinePrice(name="machine", hour=3.0),),
    )
    alike, cached, machine = costs([method], prices)
    assert alike.dollars == pytest.approx(2000 + 2 * 20)
    assert cached.dollars == pytest.approx(1000 + 0.1 * 1000 + 2 * 20)
    assert machine.hours == pytest.approx(4e6 / 3600)
    assert machine.dollars == pytest.approx(3 * 4e6 / 3600)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 9999)),
        unique_by=lambda row: row[:2],
        min_size=1,
    )
)
def test_means_times_latents_are_what_the_ledger_holds(rows):
    ledger = table_of("ledger", [_entry(name, n, n // 3, latent=f) for name, f, n in rows])
    found = methods(ledger)
    assert sum(round(one.prompt.mean * one.latents) for one in found) == sum(r[2] for r in rows)
    assert sum(one.latents for one in found) == len(rows)


def test_what_made_no_request_has_no_price():
    assert methods(table_of("ledger", [LedgerEntry(stage="explain", scorer="rules")])) == []


def test_the_packages_prices_are_dated_and_whole():
    prices = load_prices()
    assert prices.api
    assert prices.machine
    assert tomllib.loads(PRICES.read_text())["date"] == prices.date


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "date = 2026-01-01\n[[api]]\nname = 'x'\nprompt = 1",
            "`api.0.completion`: Field required",
        ),
        ("date = 2026-01-01\n[[machine]]\nname = 'x'\nhour = -1", "`machine.0.hour`"),
        ("[[api]]", "`date`: Field required"),
        ("date = ", "not TOML"),
    ],
)
def test_a_bad_file_of_prices_is_named_with_its_field(tmp_path, text, says):
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(InputError, match=r"prices\.toml") as caught:
        load_prices(tmp_path / "prices.toml")
    assert says in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_prices(tmp_path / "nowhere.toml")


@pytest.fixture
def run(tmp_path):
    with Store.open(tmp_path / "run") as store:
        store.add(
            "ledger",
            [
                _entry("Explanation by NAME", 900, 30, latent=3, seconds=2.0, verdicts=1),
                _entry("detection", 700, 12, latent=3, cached_tokens=600, seconds=4, verdicts=5),
            ],
        )
    save_config(RunConfig(), tmp_path / "run" / "config.toml")
    return tmp_path / "run"


def test_the_command_prints_both_tables(run, tmp_path):
    done = command("cost", run)
    assert done.code == 0
    for said in ("Explanation by NAME", "detection", "5 verdicts each", "1 verdict each", "hours"):
        assert said in done.words
    prices = tmp_path / "mine.toml"
    assert command("cost", run, "--write-prices", prices).code == 0
    assert "is there already" in command("cost", run, "--write-prices", prices).error
    prices.write_text("date = 2031-02-03\n[[machine]]\nname = 'my [GPU]'\nhour = 3.6\n")
    said = json.loads(command("cost", run, "--prices", prices, "--json").out)
    assert said["date"] == "2031-02-03"
    # A second of each latent of a million is 1e6 seconds, at a tenth of a cent each.
    assert [line["dollars"] for line in said["per_million_latents"]] == [2e3, 4e3]
    assert "my [GPU]" in command("cost", run, "--prices", prices).words


def test_a_run_without_a_judge_says_so(tmp_path):
    Store.open(tmp_path / "run").close()
    save_config(RunConfig(), tmp_path / "run" / "config.toml")
    assert "no language model was asked" in command("cost", tmp_path / "run").words
