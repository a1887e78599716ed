"""Progress where there is no terminal: JSON lines with done, total, rate and time left."""

import io
import json
import time

from rich.console import Console

from glossator.progress import SILENT, _Terminal, reporter


def test_without_a_terminal_each_stage_is_json_lines():
    out = io.StringIO()
    with reporter(out, every=0.0).stage("score", total=4, unit="prompts") as bar:
        bar.note("a choice")
        bar.advance(2, tokens=10)
        bar.advance(1, failures=1)
    note, first, second, last = [json.loads(line) for line in out.getvalue().splitlines()]
    assert note == {"stage": "score", "note": "a choice"}
    assert (first["done"], first["total"], first["tokens"], first["failures"]) == (2, 4, 10, 0)
    assert (second["done"], second["failures"], second["finished"]) == (3, 1, False)
    assert second["rate"] > 0
    assert second["seconds_left"] >= 0
    assert last["finished"] is True


def test_between_two_lines_of_a_stage_lies_the_interval():
    out = io.StringIO()
    with reporter(out, every=30.0).stage("harvest", total=1000) as bar:
        for _ in range(1000):
            bar.advance()
    assert len(out.getvalue().splitlines()) == 1


def test_a_stage_that_stands_still_goes_on_speaking():
    out = io.StringIO()
    with reporter(out, every=0.05).stage("score", total=4):
        end = time.monotonic() + 30.0
        while out.getvalue().count("\n") < 3 and time.monotonic() < end:
            time.sleep(0.01)
    *still, last = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(still) >= 3
    assert all((line["done"], line["finished"]) == (0, False) for line in still)
    assert last["finished"] is True


def test_on_a_terminal_a_bar_shows_the_unit_and_the_failures():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140)
    with _Terminal(console).stage("harvest", total=2, unit="tokens") as bar:
        bar.advance(1)
        time.sleep(0.01)
        bar.advance(1, failures=1)
        bar.note("float32 is the faster type here")
    assert "harvest" in out.getvalue()
    assert "tokens/s" in out.getvalue()
    assert "1 failed" in out.getvalue()
    assert "float32 is the faster type here" in out.getvalue()


def test_silence_says_nothing(capsys):
    with SILENT.stage("harvest") as bar:
        bar.advance(3)
        bar.note("unheard")
    assert capsys.readouterr() == ("", "")
