"""Words for holes in a text, by a masked language model.

    fill = MaskedModel("google-bert/bert-base-uncased")      # a name, or a folder
    fill([["the cat ", None, " on the mat"]], 3)             # [[["sat", "lay", "slept"]]]

Any function of that shape will do in its place. The model is loaded when it is first asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

from glossator.errors import InputError

__all__ = ["Filler", "MaskedModel"]

Holed: TypeAlias = Sequence[str | None]
"""A text in pieces; None where a word is missing."""

Filler: TypeAlias = Callable[[Sequence[Holed], int], list[list[list[str]]]]
"""Texts with holes, and how many words are wanted for each: for each text and hole the likeliest
words, the likeliest first."""

_BATCH = 16
_LOOKED_AT = 4
"""Tokens looked at for each word that is wanted: many are pieces of words or punctuation."""


class MaskedModel:
    """A masked language model of `transformers`.

    Args:
        model: its name, or the folder that holds it.
    """

    def __init__(self, model: str) -> None:
        self._name = model
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def refuse_missing(self) -> None:
        """Refuse to go on without the packages that it needs.

        Raises:
            InputError: names what is to be installed.
        """
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise InputError(
                    f"masked model `{self._name}`: `{package}` is not installed; "
                    "`pip install glossator[models]`, or leave the scorer out"
                )

    def __call__(self, texts: Sequence[Holed], n: int) -> list[list[list[str]]]:
        """The likeliest whole words for each hole of each text.

        Raises:
            InputError: a package or the model is missing.
        """
        with self._lock:
            tokenizer, model = self._load()
            found: list[list[list[str]]] = []
            for first in range(0, len(texts), _BATCH):
                found += _filled(tokenizer, model, texts[first : first + _BATCH], n)
        return found

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self.refuse_missing()
            import transformers

            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(self._name)
                model = transformers.AutoModelForMaskedLM.from_pretrained(self._name).eval()
            except (OSError, ValueError) as error:
                line = str(error).strip().splitlines()[0]
                raise InputError(
                    f"masked model `{self._name}`: cannot be loaded ({line})"
                ) from error
            if tokenizer.mask_token is None:
                raise InputError(f"masked model `{self._name}`: its tokenizer has no mask")
            self._loaded = tokenizer, model
        return self._loaded


def _filled(tokenizer: Any, model: Any, texts: Sequence[Holed], n: int) -> list[list[list[str]]]:  # noqa: ANN401
    import torch

    lines = [
        "".join(tokenizer.mask_token if piece is None else piece for piece in text)
        for text in texts
    ]
    batch = tokenizer(lines, return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        logits = model(**batch).logits
    found = []
    for row, text in enumerate(texts):
        places = (batch["input_ids"][row] == tokenizer.mask_token_id).nonzero()[:, 0]
        words = [_words(tokenizer, logits[row, place], n) for place in places.tolist()]
        # What the text itself calls a mask, or a hole beyond the model's reach, has no words.
        holes = sum(piece is None for piece in text)
        found.append(words if len(words) == holes else [[] for _ in range(holes)])
    return found


def _words(tokenizer: Any, logits: Any, n: int) -> list[str]:  # noqa: ANN401
    words: dict[str, None] = {}
    likeliest = logits.topk(min(_LOOKED_AT * n, len(logits))).indices.tolist()
    for token in likeliest:
        # A piece that goes on with a word keeps its sign: `##ing`.
        raw = tokenizer.convert_ids_to_tokens(token)
        word = tokenizer.decode([token]).strip()
        if word.isalpha() and not raw.startswith("##"):
            words.setdefault(word)
    return list(words)[:n]
