"""Judges in this process, each a function of the prompt: honest or biased.

judge = Knowing(lambda prompt, choices: "text")
judge.asked                        # every prompt, in order
"""

from __future__ import annotations

import asyncio
import json
import re

from glossator.judges.base import Answer, Capabilities, Failure, Usage


class Knowing:
    """Answers with what `reply` gives: a text, a `Failure`, or an `Answer`."""

    notes = ()

    def __init__(self, reply, name="known", concurrency=4):
        self.reply, self.name, self.concurrency = reply, name, concurrency
        self.capabilities = Capabilities(choices=True, schemas=True)
        self.asked, self.schemas, self.choices = [], [], []
        self.closed = 0

    async def check(self):
        pass

    async def close(self):
        self.closed += 1

    async def answer(self, prompts, *, choices=None, schema=None, max_tokens, logprobs=False):
        answers = []
        for prompt in prompts:
            self.asked.append(prompt)
            self.schemas.append(schema)
            self.choices.append(choices)
            await asyncio.sleep(0)
            said = self.reply(prompt, choices)
            if isinstance(said, Failure):
                said = Answer(failure=said)
            if isinstance(said, str):
                said = Answer(said, usage=Usage(len(prompt.user.split()), 0, len(said.split())))
            answers.append(said)
        return answers


def explained_as(text, **more):
    return json.dumps({**more, "explanation": text}, ensure_ascii=False)


def checked(prompt):
    """Description and passage of a check, or None where something else is asked."""
    found = re.fullmatch(r"Description: (.*)\n\nPassage: (.*)", prompt.user)
    return found and found.groups()


def entries(prompt):
    """The ballot's entries: claim, quotes and whole text of each, in the order shown."""
    found = []
    for block in re.split(r"^[A-H]\.$\n?", prompt.user, flags=re.MULTILINE)[1:]:
        claim, *quotes = re.findall(r"^   (?:Claim|Quote \d): (.*)$", block, re.MULTILINE)
        found.append((claim, quotes, block.rstrip("\n")))
    return found
