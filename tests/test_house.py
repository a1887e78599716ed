"""The house: each room imports only from floors below it, and light rooms stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "python" / "glossator"
# Floors of the house. On one floor a room may build on another: the decimals say in which order.
FLOORS = {
    "_core": 0,
    "_kernels": 0,
    "errors": 1,
    "arrays": 1.1,
    "folders": 1.1,
    "meter": 1.1,
    "progress": 1.1,
    "records": 1.1,
    "config": 1.2,
    "store": 1.2,
    "encode": 2,
    "coders": 2.1,
    "corpus": 2,
    "judges": 2,
    "subjects": 2,
    "text": 2,
    "reconstruction": 2.15,
    "conventions": 2.2,
    "gate": 2.3,
    "cooccurrence": 3,
    "neighbour_table": 3.01,
    "neighbours": 3.02,
    "sampling": 3.03,
    "statistics": 2.1,
    "index": 3.1,
    "feeding": 3.15,
    "harvest": 3.2,
    "hidden": 3.2,
    "shards": 3.19,
    "shown": 3.2,
    "embeddings": 3.3,
    "logit_weights": 3.3,
    "atlas": 4,
    "explain": 4,
    "runs": 4,
    "run_set": 4.1,
    "score": 4,
    "triage": 4,
    "latent_types": 4.1,
    "scramble": 4.1,
    "type_shares": 4.2,
    "export": 4.1,
    "imports": 4.2,
    "cost": 5,
    "pipeline": 5,
    "cli_options": 6,
    "demo": 6,
    "report": 6,
    "cli_settings": 6.01,
    "cli_cost": 6.1,
    "cli_export": 6.1,
    "cli_compare": 6.1,
    "cli_coder": 6.1,
    "cli_index": 6.1,
    "cli_neighbours": 6.1,
    "cli_types": 6.1,
    "cli": 6.2,
}
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if "_kernels" not in path.parts and path != PACKAGE / "__init__.py"
)


def _room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "glossator":
                names = [f"glossator.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("glossator."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path):
    room = _room(path)
    assert room in FLOORS, f"{room} stands on no floor"
    for other in set(_imported_rooms(path)) - {room, "__version__"}:
        allowed = FLOORS[other] < FLOORS[room]
        assert allowed, f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


def test_importing_the_package_loads_no_torch_and_no_client_library():
    code = (
        "import sys, glossator as gl; gl.Index; gl.SamplingPlan; gl.scores_from; gl.run;"
        "heavy = {'torch', 'transformers', 'openai', 'vllm', 'datasets'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented():
    import glossator as gl

    for name in gl.__all__:
        value = getattr(gl, name)
        assert name == "__version__" or value.__doc__, f"gl.{name} says nothing about itself"
    assert callable(gl.explain)
    assert callable(gl.score)
