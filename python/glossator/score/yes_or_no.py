"""What detection, fuzzing and their kin have in common: items asked about yes or no.

    requests = requests_of("detection", TEMPLATE, items, material, explanation, protocol_id, 1)
    verdicts_of(request, protocol_id, answers)        # one an item, with P(yes) where it is known

The order of the items depends on hookpoint, latent, scorer and seed: two explanations of one latent
are judged on the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glossator.judges.base import Answer, Failure, Job, Reading
from glossator.records import Explanation, Verdict
from glossator.score.parts import missing, prompt_id_of
from glossator.score.questions import (
    CHOICES,
    Item,
    Template,
    answer_schema,
    answer_tokens,
    booleans,
    keyed_generator,
    yes_or_no,
)
from glossator.score.scorers import Material, Request

__all__ = ["requests_of", "verdicts_of"]

_ONE_WORD = 8
"""Tokens for yes or no, and for what a judge without enforced choices may put around it."""


def requests_of(
    scorer: str,
    template: Template,
    items: Sequence[Item],
    material: Material,
    explanation: Explanation,
    protocol_id: str,
    per_prompt: int,
) -> Iterator[Request]:
    """The items in a seeded random order, so many a prompt; a short last prompt is kept."""
    hookpoint, latent = material.hookpoint, material.latent
    generator = keyed_generator("order", material.seed, scorer, hookpoint, latent, len(items))
    order = generator.permutation(len(items)).tolist()
    label, group = f"latent {latent}, {scorer}", f"{hookpoint}/{latent}"
    for first in range(0, len(order), per_prompt):
        chosen = tuple(items[place] for place in order[first : first + per_prompt])
        lines = [item.line for item in chosen]
        several = per_prompt > 1
        prompt = template.prompt(explanation.text, lines, label, group, several=several)
        n = len(chosen)
        if not several:
            job = Job(None, prompt, _ONE_WORD, choices=CHOICES)
        else:
            job = Job(None, prompt, answer_tokens(n), answer_schema(n))
        key = prompt_id_of(scorer, explanation, protocol_id, chosen)
        yield Request(key, scorer, explanation, chosen, (job,))


def verdicts_of(
    request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
) -> list[Verdict]:
    """One verdict per item; all of them missing where the question failed."""
    (answer,) = answers
    assert isinstance(answer, Answer)
    given: Sequence[tuple[bool, float | None]]
    if request.jobs[0].choices is not None:
        said = yes_or_no(answer)
        if isinstance(said, Failure):
            return missing(request, protocol_id, said)
        given = [said]
    else:
        read = booleans(answer, len(request.items))
        if isinstance(read, Failure):
            return missing(request, protocol_id, read)
        given = [(value, None) for value in read]
    return [
        Verdict(
            explanation_id=request.explanation.explanation_id,
            protocol_id=protocol_id,
            scorer=request.scorer,
            example_id=item.example_id,
            prompt_id=request.prompt_id,
            slot=slot,
            marks=item.marks,
            truth=item.truth,
            answer=answer_,
            p_yes=p_yes,
        )
        for slot, (item, (answer_, p_yes)) in enumerate(zip(request.items, given, strict=True))
    ]
