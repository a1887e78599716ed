"""How a prompt becomes tokens: the model's own chat template and its own tokenizer.

    chat = Chat(tokenizer)
    ids = chat.tokens(prompt)                   # the turns, up to where the model begins
    ids, words = chat.tokens_with_reply(prompt) # and `prompt.reply` after them, as the last tokens
    chat.notes                                  # no system turn, say

What prompts share is tokenised once: turns end in special tokens, which a tokenizer cuts out before
it looks at anything else, so the tokens of a whole are those of its parts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from glossator.errors import JudgeError
from glossator.judges.base import Prompt

__all__ = ["Chat"]

# Turns are at most as long as examples; some thousand of them are a few megabytes.
_REMEMBERED = 4_096
# Templates name the switch differently and ignore the other.
_QUIET = {"enable_thinking": False, "thinking": False}
_MARK, _OTHER_MARK = "Quetzal", "Zeppelin"
_PROBES = (
    Prompt("Is it so? Yes.", "Read with care.", (("One?", " two\n"), ("\n\nŁódź — 学", "no"))),
    Prompt("  leading and trailing \n"),
)


class Chat:
    """The chat template and the tokenizer of one model.

    Attributes:
        notes: what a reader of the scores should know about the template.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - transformers has no type for all of them
        name: str = "the model",
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Look at the template.

        Args:
            tokenizer: of transformers, with a chat template.
            name: the model's name, for messages.
            template_arguments: for the template; they win over those that switch thinking off.

        Raises:
            JudgeError: there is no template, or it cannot take a question.
        """
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "_tokenizer", None)
        self._arguments = {**_QUIET, **(template_arguments or {})}
        self._system = True
        self._template: Any = None
        if getattr(tokenizer, "chat_template", None) is None:
            raise JudgeError(f"{name}: has no chat template; choose a model made for chat")
        try:
            plain = self.text(Prompt(_MARK))
        except Exception as error:  # whatever a template raises
            raise JudgeError(f"{name}: its chat template fails: {error}") from error
        if _MARK not in plain:
            raise JudgeError(f"{name}: its chat template leaves the question out")
        notes = []
        self._system = self._has_system_turn()
        if not self._system:
            notes.append(
                f"{name}: no system turn in its chat template: "
                "instructions stand at the beginning of the first question"
            )
        self._template = self._compiled()
        loud = {name: True for name in _QUIET if name not in (template_arguments or {})}
        if loud and self._render(Prompt(_MARK), {**self._arguments, **loud}) != plain:
            notes.append(f"{name}: thinking is switched off")
        self.notes = tuple(notes)
        self._part = functools.lru_cache(_REMEMBERED)(self._encoded)
        self._boundary = self._boundaries()
        anchor = self._encoded("a")
        self._anchor = list(anchor)
        self._anchored = len(self._decoded(self._anchor))
        self.piece = functools.cache(self._piece)

    @property
    def reads(self) -> bool:
        """Whether a reply's words can be told from its tokens."""
        return self._backend is not None

    def text(self, prompt: Prompt) -> str:
        """The turns as the model is given them, up to where its own begins."""
        return self._render(prompt, self._arguments)

    def tokens(self, prompt: Prompt) -> list[int]:
        """The same as token ids."""
        return self._tokens(self.text(prompt))

    def tokens_with_reply(self, prompt: Prompt) -> tuple[list[int], tuple[str, ...]]:
        """The turns with the model's own beginning.

        Returns:
            All token ids, and the texts of the last of them, those of the reply: joined they are
            the reply. A character of several tokens stands whole at the first of them.
        """
        assert self._backend is not None
        head = self.text(prompt)
        cut = 0
        if self._boundary is not None:
            cut = max((match.end() for match in self._boundary.finditer(head)), default=0)
        tail, ids = head[cut:], self._tokens(head[:cut])
        # White space before the reply may belong to its first token, as when the model writes it
        # after a template that leaves the space to it; words may not.
        found = self._backend.encode(tail + prompt.reply, add_special_tokens=False)
        first = next(i for i, (_, end) in enumerate(found.offsets) if end > len(tail))
        if tail[found.offsets[first][0] :].strip():
            ids += self._encoded(tail)
            tail, first = "", 0
            found = self._backend.encode(prompt.reply, add_special_tokens=False)
        ids += found.ids
        words, at = [], len(tail)
        for _, end in found.offsets[first:]:
            words.append((tail + prompt.reply)[at:end])
            at = max(at, end)
        words[-1] += (tail + prompt.reply)[at:]
        return ids, tuple(words)

    def _piece(self, token: int) -> str:
        """What a token adds to a text: white space at its beginning, too."""
        return self._decoded([*self._anchor, token])[self._anchored :]

    def _render(self, prompt: Prompt, arguments: Mapping[str, Any]) -> str:
        turns = prompt.messages()
        if prompt.system and not self._system:
            first, question, *rest = turns
            words = f"{first['content']}\n\n{question['content']}"
            turns = [{"role": "user", "content": words}, *rest]
        if self._template is not None:
            plain: str = self._template.render(
                messages=turns,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **{**self._tokenizer.special_tokens_map, **arguments},
            )
            return plain
        text: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **arguments
        )
        return text

    def _compiled(self) -> Any:  # noqa: ANN401 - a template of Jinja
        """The template as transformers compiles it, if it gives the same without its wrapping.

        The wrapping makes plain data of whatever stands in a chat, which is plain here: it costs
        two thirds of the time.
        """
        try:
            from transformers.utils.chat_template_utils import _compile_jinja_template
        except ImportError:
            return None
        wrapped = [self.text(probe) for probe in _PROBES]
        self._template = _compile_jinja_template(self._tokenizer.get_chat_template())
        try:
            same = [self.text(probe) for probe in _PROBES] == wrapped
        except Exception:  # whatever a template raises
            same = False
        template, self._template = self._template, None
        return template if same else None

    def _has_system_turn(self) -> bool:
        """Templates without one raise, or drop it in silence."""
        try:
            text = self.text(Prompt(_MARK, system=_OTHER_MARK))
        except Exception:  # whatever a template raises
            return False
        return _OTHER_MARK in text and _MARK in text

    def _tokens(self, text: str) -> list[int]:
        if self._boundary is None:
            return list(self._encoded(text))
        ids: list[int] = []
        for part in self._boundary.split(text):
            if part:
                ids += self._part(part)
        return ids

    def _encoded(self, text: str) -> tuple[int, ...]:
        if self._backend is not None:
            return tuple(self._backend.encode(text, add_special_tokens=False).ids)
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _boundaries(self) -> re.Pattern[str] | None:
        """Where a text may be cut before it is tokenised; None if nowhere.

        Special tokens that no normaliser touches and that take no white space with them are looked
        for before all else. Whether the parts' tokens are the whole's depends still on what the
        tokenizer does at the beginning of a text, so some texts are tried.
        """
        if self._backend is None:
            return None
        plain = [
            token.content
            for token in self._backend.get_added_tokens_decoder().values()
            if not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        ]
        if not plain:
            return None
        plain.sort(key=len, reverse=True)
        pattern = re.compile(f"({'|'.join(map(re.escape, plain))})")
        for probe in _PROBES:
            text = self.text(probe)
            parts = [self._encoded(part) for part in pattern.split(text) if part]
            if [token for part in parts for token in part] != list(self._encoded(text)):
                return None
        return pattern
