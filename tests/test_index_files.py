"""What an index says of its own files, and the progress of what takes long on them."""

import io
import json

import pytest

from glossator.errors import InputError
from glossator.index import Index, IndexWriter, compact, join
from glossator.progress import reporter
from index_reference import corpus


def grown(path, plain):
    """An index that was added to after a partial segment."""
    latents, activations = plain.topk()
    for end in (5, len(plain.tokens)):
        with IndexWriter(path, **plain.parameters, durable=False) as writer:
            rows = slice(writer.next_context, end)
            writer.add(
                plain.tokens[rows],
                latents[rows],
                activations[rows],
                plain.documents[rows],
                context=writer.next_context,
            )
    return path


def finished(said):
    """The last line of the one stage that was shown."""
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    return [(line["stage"], line["done"], line["unit"]) for line in lines if line["finished"]]


def test_segments_are_those_on_the_disk_in_the_order_of_their_contexts(tmp_path):
    plain = corpus(12, segment_contexts=4)
    index = Index.open(grown(tmp_path / "index", plain))
    segments = index.segments()
    assert [(s.first_context, s.contexts) for s in segments] == [(0, 4), (4, 1), (5, 3), (8, 4)]
    assert sum(segment.nnz for segment in segments) == index.nnz
    assert sum(segment.n_tokens for segment in segments) == index.n_tokens
    for segment in segments:
        for name, n_bytes in segment.files.items():
            assert (tmp_path / "index" / name).stat().st_size == n_bytes
        assert segment.n_bytes == sum(segment.files.values())


def test_the_description_is_plain_json_and_adds_up(tmp_path):
    index = corpus(12, segment_contexts=4).index(tmp_path / "index", durable=False)
    said = index.describe()
    assert json.loads(json.dumps(said)) == said
    assert said["bytes"] == sum(of["bytes"] for of in said["files"].values())
    assert said["bytes"] == sum(segment["bytes"] for segment in said["segments"])
    assert said["latents"]["active"] + said["latents"]["dead"] == index.n_latents


def test_an_index_that_was_changed_since_it_was_opened_says_so(tmp_path):
    index = Index.open(grown(tmp_path / "index", corpus(12, segment_contexts=4)))
    compact(tmp_path / "index", durable=False)
    with pytest.raises(InputError, match="was changed since it was opened; open it again"):
        index.segments()
    index.verify()  # Its files are still mapped.
    assert len(Index.open(tmp_path / "index").segments()) == 3
    (tmp_path / "index" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read \(No such file"):
        index.segments()


def test_what_takes_long_shows_that_it_goes_on_and_ends(tmp_path):
    path = grown(tmp_path / "index", corpus(12, segment_contexts=4))
    for stage, units, call in (
        ("verify", (4, "segments"), Index.open(path).verify),
        ("join", (1, "parts"), lambda progress: join([path], tmp_path / "out", progress=progress)),
        ("compact", (1, "indices"), lambda progress: compact(path, progress=progress)),
    ):
        said = io.StringIO()
        call(progress=reporter(said))
        assert finished(said) == [(stage, *units)]
