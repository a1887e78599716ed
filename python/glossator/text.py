"""Tokens back into the text they came from, character by character.

    text = TokenText.open("run/tokenizer.json")
    pieces = text.pieces(tokens)          # one string per token; "".join(pieces) is the text
    text.groups(tokens)                   # tokens that share a character have one group
    text.name(262)                        # "␣the"

One token need not be whole characters: an emoji takes up to four tokens of a byte-level
vocabulary. Decoded one by one they would each become a replacement character; here the first of
them carries the whole character and the others nothing.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from glossator.errors import InputError

__all__ = ["TokenText"]

_ANCHOR = "a"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_DECODERS = frozenset(
    {"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip", "WordPiece"}
)
_SHOWN = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"}


def _byte_alphabet() -> dict[str, int]:
    """The printable character by which a byte-level vocabulary writes each byte (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): byte for byte in plain}
    alphabet.update({chr(256 + number): byte for number, byte in enumerate(others)})
    return alphabet


class TokenText:
    """The text of each token of one vocabulary: byte-level BPE, byte fallback, or WordPiece.

    Attributes:
        tokenizer: the tokenizer that it reads.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        description = json.loads(tokenizer.to_str())["decoder"]
        kinds = set(_kinds(description))
        if unknown := kinds - _DECODERS:
            raise InputError(
                f"tokenizer.json: decoder `{min(unknown)}` is not known; "
                f"byte-level, byte-fallback and WordPiece vocabularies are read"
            )
        self._spaced = description is None
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds else None
        self._byte_tokens = "ByteFallback" in kinds
        self._inner: dict[int, bytes] = {}
        self._first: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}

    @classmethod
    def open(cls, path: str | Path) -> TokenText:
        """Read a `tokenizer.json`.

        Raises:
            InputError: the file is missing or no tokenizer, or its decoder is of no known kind.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"tokenizer `{path}`: {error.strerror}") from error
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare `Exception` for bad content
            raise InputError(f"tokenizer `{path}`: not a tokenizer.json ({error})") from error
        return cls(tokenizer)

    def pieces(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> list[str]:
        """The text of each token; a character split over several stands whole at the first.

        Joined, they are what the tokenizer decodes the tokens to. U+FFFD stands only where the
        tokens begin or end within a character, so decode a whole context and then cut it.
        """
        return self.split(tokens)[0]

    def groups(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> list[int]:
        """For each token the index of the first token of its group.

        Tokens are in one group if they share a character, directly or through tokens between them.
        """
        return self.split(tokens)[1]

    def name(self, token: int) -> str:
        r"""A printable name of one token: ``␣the``, ``⏎``, ``\xe2`` for half a character."""
        raw = self.tokenizer.id_to_token(token)
        if raw is None:
            return f"<{token}>"
        text = self._bytes(token, first=False).decode("utf-8", "backslashreplace")
        return "".join(_visible(character) for character in text) or raw

    def names(self, tokens: Iterable[int]) -> list[str]:
        """The names of several tokens."""
        return [self.name(int(token)) for token in tokens]

    def split(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> tuple[list[str], list[int]]:
        """What `pieces` and `groups` give, at the price of one."""
        ids: list[int] = tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)
        # Nearly all text is whole characters that were met before.
        whole = list(map(self._texts.get, ids))
        if ids and None not in whole[1:]:
            with contextlib.suppress(UnicodeDecodeError):
                whole[0] = self._bytes(ids[0], first=True).decode()
                return cast(list[str], whole), list(range(len(ids)))
        pieces: list[str] = []
        groups: list[int] = []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        owner: int | None = None  # the token that holds the first byte of an unfinished character
        for at, token in enumerate(ids):
            text = self._text(token) if at and owner is None else None
            if text is not None:
                pieces.append(text)
                groups.append(at)
                continue
            data = self._bytes(token, first=at == 0)
            decoded = decoder.decode(data)
            groups.append(at if owner is None or not data else groups[owner])
            if owner is not None and decoded:
                pieces[owner] += decoded[0]
                decoded = decoded[1:]
                owner = None
            pieces.append(decoded)
            if owner is None and decoder.getstate()[0]:
                owner = at
        if owner is not None:
            pieces[owner] += decoder.decode(b"", final=True)
        return pieces, groups

    def _text(self, token: int) -> str | None:
        """The token's text after another token, or None where it is not whole characters."""
        if token not in self._texts:
            try:
                self._texts[token] = self._bytes(token, first=False).decode()
            except UnicodeDecodeError:
                self._texts[token] = None
        return self._texts[token]

    def _bytes(self, token: int, *, first: bool) -> bytes:
        cache = self._first if first else self._inner
        if token not in cache:
            cache[token] = self._read(token, first=first)
        return cache[token]

    def _read(self, token: int, *, first: bool) -> bytes:
        raw = self.tokenizer.id_to_token(token)
        if raw is None:
            return b""  # models pad their vocabularies; the tokenizer decodes such ids to nothing
        if self._alphabet is not None:
            # A token added by hand may hold what the alphabet lacks: then it stands for itself.
            values = [self._alphabet.get(character) for character in raw]
            return raw.encode() if None in values else bytes(v for v in values if v is not None)
        if self._byte_tokens and (match := _BYTE_TOKEN.fullmatch(raw)):
            return bytes([int(match[1], 16)])
        if self._spaced:
            return raw.encode() if first else b" " + raw.encode()
        before = [] if first else [_ANCHOR]
        text: str = self.tokenizer.decoder.decode([*before, raw])
        return text.removeprefix("".join(before)).encode()


def _kinds(description: dict[str, object] | None) -> Iterable[str]:
    if description is None:
        return
    yield str(description["type"])
    inner = description.get("decoders", [])
    assert isinstance(inner, list)
    for decoder in inner:
        yield from _kinds(decoder)


def _visible(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()
