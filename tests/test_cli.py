"""The command line: help with examples, refusals in one line, latents in every spelling."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import typer.main

from glossator import __version__
from glossator.cli import app
from glossator.cli_options import parse_latents
from glossator.errors import InputError
from tiny_runs import command

COMMANDS = [
    "compare",
    "cost",
    *("demo", "run", "harvest", "explain", "score", "atlas", "inspect", "export tables"),
    *(f"export {name}" for name in ("neuronpedia", "circuit-tracer", "delphi", "dataset")),
    *("export notes", "export saebench", "import delphi", "import neuronpedia"),
    *("coder inspect", "join", "types", "neighbours"),
    *(f"index {name}" for name in ("inspect", "verify", "join", "compact", "export", "top")),
]
SCRIPT = Path(sysconfig.get_path("scripts")) / "glossator"


def test_every_command_is_known():
    root = typer.main.get_command(app)
    names = []
    for name, group in root.commands.items():
        names += [f"{name} {inner}" for inner in getattr(group, "commands", {})] or [name]
    assert sorted(names) == sorted(COMMANDS)


def test_without_the_extra_for_models_a_harvest_says_which_to_install(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from glossator.cli import main;"
        f"sys.exit(main(['demo', '--out', {str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "glossator: harvest: the package `torch` is not installed; "
        "run `pip install 'glossator[models]'`\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help_carries_an_example_that_parses(name):
    done = command(*name.split(), "--help")
    assert done.code == 0
    assert not done.err
    _, _, examples = done.out.partition("Examples:\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    for line in lines:
        assert line.startswith(f"glossator {name}")
        group = typer.main.get_command(app)
        words = line.split()[1:]
        while hasattr(group, "commands"):
            group = group.commands[words.pop(0)]
        group.make_context(name, words)  # Raises where an option is unknown or an argument missing.


def test_the_installed_command_says_its_version_and_lists_the_commands():
    version = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=True)
    assert (version.stdout, version.stderr) == (f"glossator {__version__}\n", "")
    module = [sys.executable, "-m", "glossator.cli", "--help"]
    shown = subprocess.run(module, capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    for name in COMMANDS:
        assert f"  {name.split()[0]} " in shown.stdout


def test_help_needs_no_torch():
    code = (
        "import sys; from glossator.cli import main; main(['--help']); "
        "assert not {'torch', 'transformers', 'openai', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("arguments", [[], ["export"], ["index"]])
def test_a_group_alone_shows_its_help(arguments):
    done = command(*arguments)
    assert done.code == 0
    assert done.out.startswith("Usage: glossator")
    assert not done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--bogus"], "No such option: --bogus"),
        (["bogus"], "No such command 'bogus'"),
        (["inspect"], "Missing argument 'RUN'"),
        (["inspect", "one", "two"], "two"),
        (["demo", "--tokens", "many"], "'--tokens'"),
        (["demo", "--tokens", "-1"], "`corpus.tokens`"),
        (["demo", "--seed", "-1"], "`seed`"),
        (["demo", "--max-failed", "2"], "`max_failed`"),
        (["demo", "--max-latents", "0"], "`judge.max_latents`"),
        (["demo", "--coder-latents", "16"], "coder.k: must be smaller"),
        (["demo", "--latents", "4096"], "4096 is not in the index; its latents are 0 to 4095"),
        (["demo", "--latents", "1,x"], "neither a list of ids (3,17,40-49) nor a file"),
        (["demo", "--judge", "http://me:sk-1@host/v1"], "GLOSSATOR_JUDGE_API_KEY"),
    ],
)
def test_what_cannot_be_understood_is_one_line_and_leaves_nothing(
    arguments, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "demo":
        arguments = [*arguments, "--corpus", "nowhere.txt"]  # No demo runs, should one be taken.
    done = command(*arguments)
    assert done.code == 2
    assert said in done.error
    assert "sk-1" not in done.err
    assert done.err.count("\n") == 1
    assert not done.out
    assert not list(tmp_path.iterdir())


def test_latents_are_ids_ranges_or_a_file_of_them(tmp_path):
    assert parse_latents(None) is None
    assert parse_latents("3,17,40-43") == (3, 17, 40, 41, 42, 43)
    assert parse_latents("5 5-6\t3") == (5, 6, 3)
    file = tmp_path / "ids.txt"
    file.write_text("3\n17, 40-41\n\n3\n")
    assert parse_latents(str(file)) == (3, 17, 40, 41)
    many = ",".join(map(str, range(5_000)))  # Longer than any file's name may be.
    assert parse_latents(many) == tuple(range(5_000))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no latent ids|neither"),
        (",", "no latent ids"),
        ("-3", "`-3` is no latent id"),
        ("3-", "`3-` is no latent id"),
        ("9-3", "`9-3` is no range"),
        ("4294967296", "is no range of latent ids"),
        ("0-4294967295", "longer than"),
        ("1-2-3", "`1-2-3` is no latent id"),
        ("1" * 300 + "x", "neither a list of ids"),
        ("nowhere.txt", r"`nowhere\.txt` is neither .* nor a file of them \(No such file"),
    ],
)
def test_what_is_no_latent_is_named(text, said):
    with pytest.raises(InputError, match=said) as info:
        parse_latents(text)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [b"3 four", b"", b"\xff\xfe3"])
def test_a_file_without_latents_is_named(content, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"ids\.txt"):
        parse_latents(str(file))
