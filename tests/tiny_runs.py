"""Whole runs of seconds: a small subject, a coder whose latents are known words, and a judge.

Latent `i` of the coder in `world.coder` is active on the word `hit{i}` and nowhere else, so every
rule can be learned, and whoever reads a passage knows whether the latent is active in it. The
corpus holds 400 short documents.

    world = make_world(folder)
    done = command("demo", *world.options, "--out", folder / "run")
    assert done.code == 0, done.err
    with started("demo", *world.options, "--out", folder / "run", into=folder) as process:
        process.kill()
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import tomli_w
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.utils import logging

from glossator.cli import main
from glossator.coders import SparseCoder, sparsify
from glossator.encode import TopK
from judge_servers import Reply, Request, coin

LIVE, RARE, DEAD = 12, 2, 2
N_LATENTS = LIVE + RARE + DEAD
FILLER = 200
WIDTH = 48
HOOKPOINT = "model.layers.0"
DOCUMENTS, WORDS = 400, 45


@dataclass(frozen=True)
class World:
    """What a tiny run is made of, on disk."""

    folder: Path

    @property
    def subject(self) -> Path:
        return self.folder / "llama"

    @property
    def coder(self) -> Path:
        return self.folder / "coder" / HOOKPOINT

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.jsonl"

    @property
    def data(self) -> list[str]:
        """Options that name subject and corpus; the coder is trained."""
        return [
            "--subject",
            str(self.subject),
            "--hookpoint",
            HOOKPOINT,
            *("--dtype", "float32"),  # a trial on a busy machine may find another one each time
            "--corpus",
            str(self.corpus),
        ]

    @property
    def options(self) -> list[str]:
        """Options that name subject, coder and corpus."""
        return [*self.data, "--coder", str(self.coder)]

    def settings(
        self, path: Path, *, trained: bool = False, **sections: Mapping[str, object]
    ) -> Path:
        """The same as a TOML file; with `trained`, the run trains its coder."""
        coder = {"latents": 256, "k": 4, "steps": 4} if trained else {"path": str(self.coder)}
        values: dict[str, object] = {
            "corpus": {"source": [str(self.corpus)]},
            "subject": {"name": str(self.subject), "hookpoint": HOOKPOINT, "dtype": "float32"},
            "coder": coder,
            **sections,
        }
        path.write_text(tomli_w.dumps(values))
        return path


# --- commands ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int | None
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong.

        Raises:
            AssertionError: standard error holds more than progress and that line.
        """
        for line in self._before:
            assert_progress(line)
        last = (self.err.splitlines() or [""])[-1]
        assert last.startswith("glossator: "), self.err
        return last.removeprefix("glossator: ")

    @property
    def stages_before(self) -> list[str]:
        """Names of the stages that showed progress before that line."""
        return list(dict.fromkeys(assert_progress(line)["stage"] for line in self._before))

    @property
    def _before(self) -> list[str]:
        return self.err.splitlines()[:-1]

    @property
    def stages(self) -> list[str]:
        """Names of the stages that showed progress, each once, in order; nothing else was said."""
        return list(dict.fromkeys(assert_progress(line)["stage"] for line in self.err.splitlines()))

    @property
    def words(self) -> str:
        """What was printed, line breaks and columns apart."""
        return " ".join(self.out.split())


_PROGRESS = {
    "stage": str,
    "done": int,
    "total": int | None,
    "unit": str,
    "rate": float | int,
    "seconds_left": float | int | None,
    "tokens": int,
    "failures": int,
    "finished": bool,
}


def assert_progress(line: str) -> dict[str, object]:
    """A line of progress as JSON.

    Raises:
        AssertionError: it is anything else.
    """
    try:
        said = json.loads(line)
    except ValueError:
        raise AssertionError(f"no line of progress: {line}") from None
    if set(said) == {"stage", "note"}:
        assert isinstance(said["note"], str)
        return said
    assert set(said) == set(_PROGRESS), line
    for name, kind in _PROGRESS.items():
        assert isinstance(said[name], kind), (name, line)
    return said


def command(*arguments: object, **environment: str) -> Done:
    """Run a command in this process, without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), err.getvalue())


_PROCESSES = multiprocessing.get_context("forkserver")
# Children start from a process that has imported this, in milliseconds rather than seconds.
_PROCESSES.set_forkserver_preload(
    [
        "glossator.cli",
        "glossator.harvest",
        "glossator.subjects",
        "glossator.coders",
        "glossator.judges.openai_server",
        "transformers.models.llama.modeling_llama",
    ]
)


class Started:
    """A command in a process of its own."""

    def __init__(self, process: multiprocessing.process.BaseProcess, into: Path) -> None:
        self._process, self._into = process, into

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def err(self) -> str:
        """Standard error so far."""
        return (self._into / "err").read_text()

    def wait_at_most(self, seconds: float) -> None:
        """Let so much time pass, less if it ends before."""
        self._process.join(seconds)

    def wait_for(self, said: re.Pattern[str], seconds: float = 120.0) -> None:
        """Wait until a line of standard error matches.

        Raises:
            AssertionError: it ended, or did not say so in time.
        """
        end = time.monotonic() + seconds
        while not any(said.search(line) for line in self.err.splitlines()):
            assert self.running, self.err
            assert time.monotonic() < end, self.err
            time.sleep(0.002)

    def wait(self, seconds: float = 120.0) -> Done:
        """What it left behind once it has ended.

        Raises:
            AssertionError: it did not end in time.
        """
        self._process.join(seconds)
        assert not self.running, self.err
        return Done(self._process.exitcode, (self._into / "out").read_text(), self.err)


@contextlib.contextmanager
def started(
    *arguments: object,
    into: Path,
    environment: Mapping[str, str] | None = None,
    file_size: int | None = None,
) -> Iterator[Started]:
    """Start a command in a process of its own, which ends with the block.

    Args:
        arguments: of the command.
        into: a folder for its standard output and error, `out` and `err`.
        environment: variables beside this process's.
        file_size: bytes beyond which no file may grow, as on a disk that is full.
    """
    for name in ("out", "err"):
        (into / name).write_text("")
    process = _PROCESSES.Process(
        target=_run,
        args=([str(each) for each in arguments], into, dict(environment or {}), file_size),
    )
    process.start()
    try:
        yield Started(process, into)
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def _run(
    arguments: list[str], into: Path, environment: dict[str, str], file_size: int | None
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(into / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
    os.environ.update(environment)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    sys.exit(main(arguments))


# --- the world ---------------------------------------------------------------------------------


def make_world(folder: Path) -> World:
    """Write subject, coder and corpus into a folder."""
    world = World(folder)
    words = [f"word{i}" for i in range(FILLER)] + [f"hit{i}" for i in range(LIVE + RARE)]
    ids = {word: number for number, word in enumerate(["[unk]", *words])}
    model = _save_subject(world.subject, ids)
    vectors = model.get_input_embeddings().weight.detach()
    save_coder(world.coder, [vectors[ids[f"hit{i}"]] for i in range(LIVE + RARE)])
    draw = random.Random(0)
    with world.corpus.open("w") as file:
        for number in range(DOCUMENTS):
            file.write(json.dumps({"text": " ".join(_document(draw, number))}) + "\n")
    return world


def save_coder(
    folder: Path, directions: list[torch.Tensor], bias: float = -0.6, hookpoint: str = HOOKPOINT
) -> Path:
    """A coder with a latent for each direction, active on states along it, and dead ones."""
    width = len(directions[0])
    encoder = torch.zeros(len(directions) + DEAD, width)
    for latent, direction in enumerate(directions):
        encoder[latent] = direction / direction.dot(direction)
    biases = torch.full((len(encoder),), bias)
    biases[len(directions) :] = -100.0
    coder = SparseCoder(
        encoder_weight=encoder,
        encoder_bias=biases,
        decoder=35.0 * torch.nn.functional.normalize(encoder + 1e-3, dim=1),
        decoder_bias=torch.zeros(width),
        rule=TopK(4),
        hookpoint=hookpoint,
        hookpoint_out=hookpoint,
    )
    folder.mkdir(parents=True)
    sparsify.fill(coder, folder)
    return folder


def _save_subject(folder: Path, ids: dict[str, int]) -> torch.nn.Module:
    """A causal model whose first layer adds a little of the context to the words' own vectors."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(ids),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        words.copy_(14.0 * torch.nn.functional.normalize(words, dim=1))
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[unk]"
    ).save_pretrained(folder)
    return model


def _document(draw: random.Random, number: int) -> list[str]:
    words = [f"word{draw.randrange(FILLER)}" for _ in range(WORDS)]
    for latent in range(LIVE):
        if draw.random() < 0.55:
            words[draw.randrange(WORDS)] = f"hit{latent}"
    if number < RARE * 4:
        words[3] = f"hit{LIVE + number % RARE}"
    return words


POST = (
    *("--preset", "post", "--null", "0"),
    *("--explainer", "rules", "--explainer", "delimited"),
)
"""Options for few prompts: five examples in each, and no other latent's explanation."""

# --- a judge that knows ------------------------------------------------------------------------


def is_explaining(request: Request) -> bool:
    """Whether an explanation is asked for, not a score."""
    return request.schema is not None and "explanation" in request.schema.get("properties", {})


_WORD = re.compile(r"\b(?:hit|word)\d+\b")


def explain(request: Request) -> Reply:
    """The marked words that come up most."""
    marked = Counter(_WORD.findall(" ".join(re.findall(r"<<(.*?)>>", request.question))))
    return Reply("Explanation: the word " + " or ".join(w for w, _ in marked.most_common(3)))


def truths(request: Request) -> list[bool]:
    """The right answers to detection or fuzzing, going by the words of the description."""
    description, _, passage = request.question.partition("\n")
    words = set(_WORD.findall(description))
    answers = []
    for line in request.examples if request.choices is None else [passage]:
        if "<<" in line:
            line = " ".join(re.findall(r"<<(.*?)>>", line))
        answers.append(not words.isdisjoint(_WORD.findall(line)))
    return answers


def knowing(recall: float = 1.0, specificity: float = 1.0) -> Callable[[Request], Reply]:
    """A server's replies, right in a planted share of what is so and of what is not."""

    def reply(request: Request) -> Reply:
        if is_explaining(request):
            return explain(request)
        said = []
        for place, truth in enumerate(truths(request)):
            keeps = coin(recall if truth else specificity, request.question, place)
            said.append(truth if keeps else not truth)
        if request.choices is not None:
            return Reply("yes" if said[0] else "no")
        return Reply(json.dumps(said))

    return reply
