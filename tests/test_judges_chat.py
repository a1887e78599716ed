"""From a prompt to tokens, and from alternatives of single tokens to probabilities of choices."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.errors import JudgeError
from glossator.judges.base import Prompt
from glossator.judges.chat import Chat
from glossator.judges.choosing import Next, beginnings, probabilities
from tiny_models import chat_tokenizer, tokenizer

KINDS = ("byte-level", "byte-fallback")
words = st.text(st.sampled_from("ab \n\té学🜁<|end>"), max_size=12) | st.text(max_size=8)
prompts = st.builds(
    Prompt, user=words, system=words, shots=st.lists(st.tuples(words, words), max_size=2).map(tuple)
)


CHATS = {}


def whole(made, text):
    return made.backend_tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(prompt=prompts)
def test_tokens_of_the_parts_are_the_tokens_of_the_whole(kind, prompt):
    made = chat_tokenizer(kind)
    chat = CHATS.setdefault(kind, Chat(made))
    assert chat.tokens(prompt) == whole(made, chat.text(prompt))


@settings(deadline=None, max_examples=50)
@given(prompt=prompts)
def test_turns_are_rendered_as_transformers_renders_them(prompt):
    made = chat_tokenizer("byte-level")
    chat = CHATS.setdefault("byte-level", Chat(made))
    assert chat._template is not None
    rendered = made.apply_chat_template(
        prompt.messages(), tokenize=False, add_generation_prompt=True
    )
    assert chat.text(prompt) == rendered


def test_turns_are_tokenised_once_where_the_tokenizer_allows():
    chat = Chat(chat_tokenizer("byte-level"))
    shared = {"system": "Judge.", "shots": (("q", "a"),)}
    for number in range(5):
        chat.tokens(Prompt(f"text {number}", **shared))
    told = chat._part.cache_info()
    assert told.hits > 5 * 6
    assert told.misses < 20


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(prompt=prompts, reply=words.filter(bool))
def test_a_replys_words_joined_are_the_reply_and_its_tokens_are_the_last(kind, prompt, reply):
    made = chat_tokenizer(kind)
    chat = CHATS.setdefault(kind, Chat(made))
    ids, found = chat.tokens_with_reply(replace(prompt, reply=reply))
    assert "".join(found) == reply
    head = chat.tokens(prompt)
    assert ids[: len(ids) - len(found)] in (head, head[:-1])
    text = made.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if kind == "byte-level":
        assert text == chat.text(prompt) + reply


def test_a_template_without_a_system_turn_gets_it_inside_the_first_question():
    raises = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "<|start|>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}<|start|>assistant:"
    )
    drops = (
        "{% for m in messages %}{% if m.role != 'system' %}"
        "<|start|>{{ m.role }}:{{ m.content }}<|end|>{% endif %}{% endfor %}<|start|>assistant:"
    )
    prompt = Prompt("Is it?", "Be brief.", (("One?", "Yes."),))
    for template in (raises, drops):
        chat = Chat(chat_tokenizer("byte-level", template), "M")
        assert chat.text(prompt) == (
            "<|start|>user:Be brief.\n\nOne?<|end|><|start|>assistant:Yes.<|end|>"
            "<|start|>user:Is it?<|end|><|start|>assistant:"
        )
        assert chat.notes == (
            "M: no system turn in its chat template: "
            "instructions stand at the beginning of the first question",
        )


def test_thinking_is_switched_off_unless_the_user_says_otherwise():
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        "{% if enable_thinking is not false %}<think>{% else %}<think></think>{% endif %}"
    )
    made = chat_tokenizer("byte-level", template)
    quiet = Chat(made, "M")
    assert quiet.text(Prompt("x")).endswith("<think></think>")
    assert quiet.notes == ("M: thinking is switched off",)
    loud = Chat(made, "M", {"enable_thinking": True})
    assert loud.text(Prompt("x")).endswith("\n<think>")
    assert loud.notes == ()


def test_a_model_without_a_usable_template_is_refused():
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer("byte-level"))
    with pytest.raises(JudgeError, match="M: has no chat template"):
        Chat(bare, "M")
    with pytest.raises(JudgeError, match="leaves the question out"):
        Chat(chat_tokenizer("byte-level", "hello"), "M")
    with pytest.raises(JudgeError, match="its chat template fails: never"):
        Chat(chat_tokenizer("byte-level", "{{ raise_exception('never') }}"), "M")


def test_a_piece_keeps_its_white_space():
    for kind in KINDS:
        made = chat_tokenizer(kind)
        chat = Chat(made)
        ids = whole(made, "is the statement")
        pieces = [chat.piece(token) for token in ids]
        assert "".join(pieces).strip() == "is the statement"
        assert any(piece.startswith(" ") for piece in pieces[1:])


WORDS = ["no", "not", "nothing", "noes", "1", "10", "100", "yes", "thing"]
END = 0
# Every character, so that no way to spell a word has a dead end.
VOCABULARY = ["<end>", *sorted(set("".join(WORDS))), "no", "th", "ing", "thing", "10", "00", "es"]


def model(weights):
    """What a constrained model gives: the tokens that may come next, adding up to 1."""

    def ask(path, rests):
        found = {
            token: text
            for token, text in enumerate(VOCABULARY)
            if token != END and any(rest.startswith(text) for rest in rests)
        }
        if "" in rests:
            found[END] = "<end>"
        raw = {token: weights[(token + 7 * len(path)) % len(weights)] for token in found}
        total = sum(raw.values())
        return [Next(token, text, raw[token] / total) for token, text in found.items()]

    return ask


def by_brute_force(ask, choices):
    """Every way to the end, each choice's together."""
    totals = dict.fromkeys(choices, 0.0)

    def walk(path, said, reached):
        rests = tuple(choice[len(said) :] for choice in choices if choice.startswith(said))
        for token, text, probability in ask(path, rests):
            if token == END:
                totals[said] += reached * probability
            else:
                walk((*path, token), said + text, reached * probability)

    walk((), "", 1.0)
    return totals


CHOICES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5, unique=True)


@settings(deadline=None)
@given(choices=CHOICES, weights=st.lists(st.floats(0.01, 1.0), min_size=17, max_size=17))
def test_probabilities_are_those_of_all_ways_to_spell_each_choice(choices, weights):
    ask = model(weights)

    async def asks(path, rests):
        return ask(path, rests)

    found = asyncio.run(probabilities(asks, choices))
    expected = by_brute_force(ask, choices)
    assert sum(found.values()) == pytest.approx(1.0)
    for choice in choices:
        assert found[choice] == pytest.approx(expected[choice], abs=1e-5)


def test_choices_that_begin_differently_take_one_question():
    asked = []

    async def asks(path, rests):
        asked.append(path)
        return [Next(1, "n", 0.25), Next(2, "no", 0.25), Next(12, "y", 0.5)]

    assert asyncio.run(probabilities(asks, ("yes", "no"))) == {"yes": 0.5, "no": 0.5}
    assert asked == [()]


def test_a_token_that_shows_no_choice_gives_no_probabilities():
    async def asks(path, rests):
        return [Next(1, "�", 0.5), Next(2, "x", 0.5)]

    assert asyncio.run(probabilities(asks, ("école", "x"))) is None


def test_as_many_alternatives_as_there_are_beginnings():
    assert beginnings(("yes", "no")) == 5
    assert beginnings(("no", "not")) == 3
    assert beginnings(("", "thing")) == 6
