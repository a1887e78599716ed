"""Sending to Neuronpedia: what is refused is named before, and nothing is there twice."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exported_world import ExportedRun
from glossator.errors import InputError
from glossator.export import Chosen, NeuronpediaSource
from glossator.export.upload import KEY_VARIABLE, dry_run, payloads, upload, without_refused

SOURCE = NeuronpediaSource(model="gpt2-small", layer=5, source_set="res-mine")
KEY = "sk-secret"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


# The schema of `POST /api/feature/upload-batch`.


class Logit(Strict):
    token: str = Field(min_length=1)
    value: float


class Said(Strict):
    text: str = Field(min_length=1, max_length=512)
    methodName: str | None = None  # noqa: N815
    modelName: str | None = None  # noqa: N815


class Activation(Strict):
    tokens: list[str] = Field(min_length=1, max_length=1024)
    values: list[float] = Field(min_length=1, max_length=1024)
    quantileMin: float | None = None  # noqa: N815
    quantileMax: float | None = None  # noqa: N815
    quantileFraction: float | None = Field(None, ge=0, le=1)  # noqa: N815


class Feature(Strict):
    index: int = Field(ge=0, le=10_000_000)
    density: float = Field(ge=0, le=1)
    topLogits: list[Logit] = Field(max_length=20)  # noqa: N815
    bottomLogits: list[Logit] = Field(max_length=20)  # noqa: N815
    explanations: list[Said]
    activations: list[Activation] = Field(min_length=1)


class Body(Strict):
    modelId: str  # noqa: N815
    source: str
    features: list[Feature] = Field(min_length=1, max_length=128)


class Neuronpedia:
    """A server written from the schema; `faults` are played first, one a call."""

    def __init__(self, faults=()):
        self.there, self.rows, self.calls, self.faults = {}, [], 0, list(faults)
        self.silent = 0  # questions that it does not answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, said):
                text = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self):
                if outer.silent:
                    outer.silent -= 1
                    return self.answer(503, {"error": "busy"})
                found = outer.there.get(self.path.removeprefix("/api/feature/"))
                return self.answer(200 if found else 404, found or {"error": "not found"})

            def do_POST(self):
                outer.calls += 1
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                fault = outer.faults.pop(0) if outer.faults else None
                if self.headers["x-api-key"] != KEY:
                    self.answer(401, {"error": f"bad key {self.headers['x-api-key']}"})
                elif fault in (429, 500):
                    self.answer(fault, {"error": "busy"})
                else:
                    outer.take(self, raw, lost=fault == "lost")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, handler, raw, *, lost):
        try:
            body = Body.model_validate_json(raw)
        except ValidationError as error:
            return handler.answer(400, {"error": str(error)})
        for one in body.features:
            if any(not token for row in one.activations for token in row.tokens):
                return handler.answer(400, {"error": "tokens is a required field"})
            # Nothing is unique here but the latent: what comes twice stands there twice.
            self.there[f"{body.modelId}/{body.source}/{one.index}"] = {"index": one.index}
            self.rows += [(one.index, said.text) for said in one.explanations]
        if lost:
            return handler.connection.close()
        return handler.answer(200, {"message": f"{len(body.features)} features created."})

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = ExportedRun(tmp_path_factory.mktemp("exported"))
    yield run
    run.store.close()


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)


ALL = [(i, f"latent {i}") for i in (0, 3, 4)]


def send(run, server, journal, *, size=2, **more):
    bodies = payloads(run, SOURCE, size=size)
    return upload(bodies, journal=journal, server=server.url, wait=0.001, **more)


@pytest.mark.usefixtures("key")
def test_what_was_sent_is_there_once_however_often_it_is_run(run, tmp_path):
    journal = tmp_path / "sent.jsonl"
    assert dry_run(payloads(run, SOURCE)) == []
    with Neuronpedia() as server:
        first = send(run, server, journal)
        assert (first.sent, first.before, server.calls) == (3, 0, 2)
        again = send(run, server, journal, size=3)  # cut into other calls
        assert (again.sent, again.before, server.calls) == (0, 3, 2)
        assert server.rows == ALL
    assert KEY not in journal.read_text()


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("faults", [(429,), (500, 500), ("lost",), (500, "lost", 429)])
def test_faults_that_pass_are_tried_again_and_nothing_arrives_twice(run, tmp_path, faults):
    with Neuronpedia(faults) as server:
        assert send(run, server, tmp_path / "sent.jsonl").sent == 3
        assert server.rows == ALL


@pytest.mark.usefixtures("key")
def test_a_process_killed_between_sending_and_noting_sends_nothing_twice(run, tmp_path):
    journal = tmp_path / "sent.jsonl"
    with Neuronpedia() as server:
        send(run, server, journal)
        # As if it was killed while the second call was under way: its last line is cut off.
        written = journal.read_text().splitlines(keepends=True)
        assert [json.loads(line)["what"] for line in written] == ["sending", "sent"] * 2
        journal.write_text("".join(written[:3]) + written[3][:20])
        done = send(run, server, journal)
        assert (done.sent, done.before, server.calls) == (0, 3, 2)
        # And as if the server was busy when it was asked what it has.
        journal.write_text("".join(written[:3]))
        server.silent = 3
        with pytest.raises(InputError, match=r"no success after 2 attempts.*status 503"):
            send(run, server, journal, attempts=2)
        assert send(run, server, journal).before == 3
        # And as if it had never seen it.
        journal.write_text("".join(written[:3]))
        server.there.popitem()
        server.rows.pop()
        assert send(run, server, journal).sent == 1
        assert server.rows == ALL


@pytest.mark.usefixtures("key")
def test_a_latent_that_is_another_now_is_refused_and_other_servers_are_their_own(run, tmp_path):
    journal = tmp_path / "sent.jsonl"

    def changed(server):
        bodies = list(payloads(run, SOURCE))
        bodies[0]["features"][1]["explanations"][0]["text"] = "another"
        return upload(bodies, journal=journal, server=server.url, wait=0.001)

    with Neuronpedia() as server:
        send(run, server, journal)
        with pytest.raises(InputError, match=r"5-res-mine/3: was sent before with other.*--suffix"):
            changed(server)
        assert server.rows == ALL
    with Neuronpedia() as other:  # what one server has, another lacks
        assert changed(other).sent == 3


@pytest.mark.usefixtures("key")
def test_what_the_server_refuses_is_one_line_and_the_next_call_goes_on(run, tmp_path):
    with Neuronpedia([None, 500]) as server:
        with pytest.raises(InputError, match=r"no success after 1 attempts.*500 busy"):
            send(run, server, tmp_path / "sent.jsonl", attempts=1)
        assert send(run, server, tmp_path / "sent.jsonl").sent == 1
        assert server.rows == ALL


def test_a_key_is_needed_and_stands_in_no_error(run, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with Neuronpedia() as server:
        with pytest.raises(InputError, match=f"no key.*{KEY_VARIABLE}"):
            send(run, server, tmp_path / "sent.jsonl")
        monkeypatch.setenv(KEY_VARIABLE, "sk-wrong")
        with pytest.raises(InputError, match=r"refused \(401 bad key \[key\]\)"):
            send(run, server, tmp_path / "sent.jsonl")


def test_a_dry_run_names_what_would_be_refused(run):
    named = SOURCE.model_copy(update={"method": "mine", "explainer_model": "gpt-4o-mini"})
    found = dry_run(payloads(run, named))
    assert len(found) == 1
    assert found[0].startswith("method `mine`: not known there; known are ")
    assert dry_run(payloads(run, named), methods=("mine",)) == []
    assert "model `gpt-4o-mini`: not known" in dry_run(payloads(run, named), models=())[1]
    chosen = Chosen.of(run, [3])
    (body,) = payloads(run, SOURCE, chosen=chosen)
    (feature,) = body["features"]
    # 300 characters of two UTF-16 units each: the server counts 600.
    feature["explanations"] = [{"text": "😀" * 300, "methodName": None, "modelName": None}]
    feature["activations"] = []
    assert dry_run([body]) == [
        "latent 3: has no example",
        "latent 3: its explanation has 600 characters; at most 512 are taken",
    ]
    feature["activations"] = [{"tokens": ["a"], "values": [1.0]}]
    (kept,) = without_refused([body])
    assert dry_run([kept]) == []
    assert kept["features"] == [{**feature, "explanations": []}]
    feature["activations"] = [{"tokens": ["a"] * 1025, "values": [1.0] * 1025}]
    assert list(without_refused([body])) == []
    whole = list(payloads(run, SOURCE, size=2))
    assert list(without_refused(whole)) == whole
    with pytest.raises(InputError, match="size: is 129"):
        next(payloads(run, SOURCE, size=129))
