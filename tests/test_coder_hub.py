"""Coders of a Hugging Face repository, by the hub's own client, from a hub on loopback."""

import re

import pytest

from glossator.coders import load_coder
from golden_coders import GOLDEN, MEANT, NAMES
from hub_server import HubServer, in_a_client

SET = "owner/listed"
ODD = (
    ("owner/coders", None),
    ("owner/coders", "saelens_gated"),
    ("owner/coders/nowhere", None),
    ("owner/nothing", None),
    (SET, "layers.2"),
    ("owner/coders/openai_v5/resid_delta_mlp_v5_32k/autoencoders/8.pt", None),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What each name gave, and the files that were sent for it."""
    # A set that lists files of another repository, as circuit-tracer's own do.
    listing = tmp_path_factory.mktemp("listing")
    config = (GOLDEN / "circuit_tracer_topk" / "config.yaml").read_text()
    files = [f"hf://owner/coders/circuit_tracer_topk/layer_{at}.safetensors" for at in (0, 1, 2)]
    listed = "".join(f"- {file}?revision=main\n" for file in files)
    (listing / "config.yaml").write_text(f"{config}transcoders:\n{listed}")
    asked = [(f"owner/coders/{name}", MEANT.get(name)) for name in NAMES] + list(ODD)
    with HubServer({"owner/coders": GOLDEN, SET: listing}) as hub:
        said = in_a_client(hub.url, tmp_path_factory.mktemp("home"), [list(one) for one in asked])
    return dict(zip(asked, said, strict=True)), hub


@pytest.mark.parametrize("name", NAMES)
def test_a_coder_of_a_repository_is_that_of_the_folder_and_nothing_else_is_fetched(name, served):
    said, hub = served
    coder = load_coder(GOLDEN / name, MEANT.get(name))
    assert said[f"owner/coders/{name}", MEANT.get(name)] == {"hash": coder.hash}
    fetched = {f for f in hub.fetched if f.startswith(f"owner/coders/{name}/")}
    weights = {f for f in fetched if f.endswith((".pt", ".pth", ".npz", ".safetensors"))}
    assert 1 <= len(weights) <= 2
    assert not any(f.endswith("expected.npz") for f in fetched)


def test_a_repository_of_several_coders_lists_them_and_one_that_is_not_there_says_so(served):
    said, _ = served
    several = said["owner/coders", None]["error"]
    assert several.startswith("coder `owner/coders`: several coders; ")
    assert "`llama_scope_r1`" in several
    gated = load_coder(GOLDEN / "saelens_gated").hash
    assert said["owner/coders", "saelens_gated"] == {"hash": gated}
    layout = "the repository holds no coder of a known layout under `nowhere`"
    assert layout in said["owner/coders/nowhere", None]["error"]
    nothing = said["owner/nothing", None]["error"]
    assert nothing.startswith("coder `owner/nothing`: no such folder, nor to be had (Repository")
    assert "\n" not in nothing


def test_a_file_of_a_repository_is_named_by_its_path(served):
    said, _ = served
    assert said[ODD[-1]] == {"hash": load_coder(GOLDEN / "openai_v5").hash}


def test_a_set_that_lists_files_of_other_repositories_fetches_the_one_that_is_meant(served):
    said, hub = served
    assert said[SET, "layers.2"] == {"hash": load_coder(GOLDEN / "circuit_tracer_topk").hash}
    assert [f for f in hub.fetched if f.startswith(SET)] == [f"{SET}/config.yaml"]
    assert not any(re.search(r"topk/layer_[01]", path) for _, path in hub.asked)


def test_lists_come_in_pages_and_weights_by_a_redirect(served):
    _, hub = served
    pages = [path for _, path in hub.asked if path == "/api/models/owner/coders/tree/main"]
    assert len(pages) > len(NAMES), "the list was short: no page was turned"
    heads = [path for way, path in hub.asked if way == "HEAD" and path.startswith("/objects/")]
    assert heads


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    (said,) = in_a_client("gopher://127.0.0.1", tmp_path, [["owner/coders", None]])
    assert said["error"].startswith("coder `owner/coders`: no such folder, nor to be had (Unsupp")
    assert "\n" not in said["error"]
