"""How one server is asked: which fields of a request it heeds.

    dialect = Dialect(choices="enum", system=False)
    dialect.answer(prompt, choices=("yes", "no"), schema=None, max_tokens=4, logprobs=True)
    dialect.read(prompt, alternatives=5)  # the body without the model's name

`glossator.judges.probe` finds out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from glossator.judges.base import Capabilities, Prompt

__all__ = ["TOP_LOGPROBS", "Dialect"]

TOP_LOGPROBS = 20
"""Alternatives asked for at each token: the most that servers allow."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server understands; by default all that vLLM does."""

    choices: Literal["structured_outputs", "enum", "none"] = "structured_outputs"
    """How an answer is held to choices: by vLLM's own field, by a schema that lists them, not."""
    schemas: bool = True
    """JSON schemas are enforced."""
    logprobs: bool = True
    """Tokens come with their probabilities."""
    readings: bool = True
    """Tokens of the prompt do, too (vLLM's `prompt_logprobs`)."""
    cached_tokens: bool = False
    """It counts the tokens that its prefix cache had."""
    system: bool = True
    """Its chat template has a place for a system turn."""
    repeats_id: bool = False
    """Its replies repeat the request's id, so that another's reply is recognised."""
    repeats_model: bool = False
    """Its replies repeat the model's name as it was asked for."""
    quiet: dict[str, Any] = field(default_factory=dict, hash=False)
    """Fields that switch thinking off."""

    def capabilities(self) -> Capabilities:
        """What a judge behind this server can be held to."""
        return Capabilities(
            choices=self.choices != "none",
            schemas=self.schemas,
            logprobs=self.logprobs,
            readings=self.readings,
            cached_tokens=self.cached_tokens,
        )

    def turns(self, prompt: Prompt) -> list[dict[str, str]]:
        """The turns; where there is no system turn, the first question begins with it."""
        turns = prompt.messages()
        if prompt.system and not self.system:
            first, question, *rest = turns
            words = f"{first['content']}\n\n{question['content']}"
            return [{"role": "user", "content": words}, *rest]
        return turns

    def answer(
        self,
        prompt: Prompt,
        choices: Sequence[str] | None,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        logprobs: bool,
    ) -> dict[str, Any]:
        """The body of a request that is answered: never more than one constraint in it."""
        body: dict[str, Any] = {
            "messages": self.turns(prompt),
            "temperature": 0.0,
            "max_tokens": max_tokens,
        }
        if choices is not None and self.choices == "structured_outputs":
            body["structured_outputs"] = {"choice": list(choices)}
        elif choices is not None and self.choices == "enum":
            body["response_format"] = _form({"type": "string", "enum": list(choices)})
            # Quotes, and white space that some servers allow.
            body["max_tokens"] = max_tokens + 8
        elif schema is not None and self.schemas:
            body["response_format"] = _form(schema)
        if logprobs and self.logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = TOP_LOGPROBS
        return body | self.quiet

    def read(self, prompt: Prompt, alternatives: int) -> dict[str, Any]:
        """The body of a request whose reply is weighed: it is the beginning of the model's turn."""
        body: dict[str, Any] = {
            "messages": [*self.turns(prompt), {"role": "assistant", "content": prompt.reply}],
            "continue_final_message": True,
            "add_generation_prompt": False,
            "prompt_logprobs": alternatives,
            "return_token_ids": True,
            "temperature": 0.0,
            "max_tokens": 1,
        }
        return body | self.quiet

    def chosen(self, text: str, choices: Sequence[str]) -> str | None:
        """The choice that an answer stands for, or None.

        What is constrained must be a choice to the letter; else the first word counts.
        """
        text = text.strip()
        if self.choices == "enum":
            try:
                text = json.loads(text)
            except ValueError:
                return None
        if text in choices:
            return text
        if self.choices != "none":
            return None
        said = text.lstrip("\"'`*([ \n").casefold()
        for choice in sorted(choices, key=len, reverse=True):
            rest = said.removeprefix(choice.casefold())
            if rest != said and not rest[:1].isalnum():
                return choice
        return None


def _form(schema: Mapping[str, Any]) -> dict[str, Any]:
    form = {"name": "answer", "schema": dict(schema), "strict": True}
    return {"type": "json_schema", "json_schema": form}
