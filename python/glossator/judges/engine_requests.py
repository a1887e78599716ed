"""How vLLM's engine is asked in this process, and what its outputs say.

    params = free(64, None, {"type": "array"})        # SamplingParams
    params = first_token(("yes", "no"), 5)
    text_of(output.outputs[0], None, 64)              # str or Failure
    likeliest(chat, output.prompt_logprobs[7], 5)

vLLM is imported where it is needed: an import takes seconds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from glossator.judges.base import Failure
from glossator.judges.chat import Chat

__all__ = ["first_token", "free", "likeliest", "text_of", "tokenizer_of", "weighing"]


def tokenizer_of(config: Any) -> Any:  # noqa: ANN401 - vLLM's ModelConfig, any tokenizer of transformers
    """A tokenizer of our own: the engine's works in threads of its own."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(
        config.tokenizer,
        revision=config.tokenizer_revision,
        trust_remote_code=config.trust_remote_code,
    )


def _params(**fields: Any) -> Any:  # noqa: ANN401 - vLLM's SamplingParams and what it takes
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(temperature=0.0, output_kind=RequestOutputKind.FINAL_ONLY, **fields)


def _constraint(**fields: Any) -> Any:  # noqa: ANN401 - vLLM's StructuredOutputsParams
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**fields)


def free(max_tokens: int, choices: tuple[str, ...] | None, schema: Mapping[str, Any] | None) -> Any:  # noqa: ANN401
    """A request for a text."""
    if choices is not None:
        return _params(max_tokens=max_tokens, structured_outputs=_constraint(choice=list(choices)))
    if schema is not None:
        return _params(max_tokens=max_tokens, structured_outputs=_constraint(json=dict(schema)))
    return _params(max_tokens=max_tokens)


@functools.lru_cache(1_024)
def first_token(rests: tuple[str, ...], alternatives: int) -> Any:  # noqa: ANN401
    """A request for the first token of one of several texts, with its alternatives."""
    return _params(
        max_tokens=1,
        logprobs=alternatives,
        detokenize=False,
        structured_outputs=_constraint(choice=list(rests)),
    )


def weighing(alternatives: int) -> Any:  # noqa: ANN401
    """A request that weighs the prompt's own tokens."""
    return _params(max_tokens=1, prompt_logprobs=alternatives, detokenize=False, flat_logprobs=True)


def likeliest(chat: Chat, place: Mapping[int, Any], number: int) -> dict[str, float]:
    """The likeliest tokens by text; those of equal text, pieces of characters say, together."""
    found = sorted(place.items(), key=lambda item: -item[1].logprob)[:number]
    by_text: dict[str, float] = {}
    for token, entry in found:
        text = chat.piece(token)
        before = math.exp(by_text[text]) if text in by_text else 0.0
        by_text[text] = math.log(before + math.exp(entry.logprob)) if before else entry.logprob
    return by_text


def text_of(
    output: Any,  # noqa: ANN401 - vLLM's CompletionOutput
    choices: tuple[str, ...] | None,
    max_tokens: int,
) -> str | Failure:
    """The words of an answer, or the failure that it stands for; a choice is whole or none."""
    text: str = output.text
    if choices is not None:
        if text.strip() in choices:
            return text.strip()
        return Failure("malformed", f"the answer is none of {', '.join(choices)}")
    if output.finish_reason not in ("stop", "length"):
        return Failure("server_error", f"the engine broke the answer off ({output.finish_reason})")
    if text.lstrip().startswith("<think>"):
        _, closed, text = text.partition("</think>")
        if not closed:
            return Failure("truncated", f"still thinking after {max_tokens} tokens")
    if output.finish_reason == "length":
        return Failure("truncated", f"the answer was cut off at {max_tokens} tokens")
    if not text.strip():
        return Failure("empty", "the answer holds no text")
    return text
