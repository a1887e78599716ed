"""What is found out about a server at the start, and how it is asked afterwards."""

from __future__ import annotations

import json
import math

import pytest

from glossator.errors import InputError, JudgeError
from glossator.judges import Capabilities, Prompt, run_sync
from glossator.judges.openai_server import OpenAIJudge
from judge_servers import ChatServer, Reply, reading, vllm_probe

ALL = Capabilities(choices=True, schemas=True, logprobs=True, readings=True, cached_tokens=True)


async def at_once(_):
    pass


def checked(server, **options):
    options.setdefault("attempts", 2)
    judge = OpenAIJudge(server.url, server.model, sleep=at_once, **options)
    run_sync(judge.check(), judge, "check")
    return judge


def ask(judge, prompt="x", **options):
    options.setdefault("max_tokens", 4)
    prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
    return run_sync(judge.answer([prompt], **options), judge, "answer")[0]


def answers(request):
    return Reply(request.choices[0] if request.choices else "text")


def test_vllm_is_held_to_all_there_is_and_nothing_is_noted():
    with ChatServer(answers, logprobs=True, readings=True) as server:
        judge = checked(server)
    assert judge.capabilities == ALL
    assert judge.notes == ()


def test_no_request_ever_holds_two_constraints():
    with ChatServer(answers) as server:
        judge = checked(server)
        ask(judge, choices=("yes", "no"), logprobs=True)
        ask(judge, schema={"type": "array"})
        for request in server.requests:
            assert not ({"structured_outputs", "response_format"} <= set(request.body))


def without(*fields, status=400, ignored=False, then=vllm_probe):
    """A server that does not know some fields: refuses them, or pays no heed."""

    def probe(request):
        if any(field in request.body for field in fields):
            if not ignored:
                return Reply(status=status, error=f"unknown field among {fields}")
            body = {key: value for key, value in request.body.items() if key not in fields}
            request = type(request)(body, request.headers, request.number)
        return then(request)

    return probe


@pytest.mark.parametrize("status", [400, 404, 422, 500])
@pytest.mark.parametrize("ignored", [True, False])
def test_choices_go_out_as_a_schema_where_vllms_field_is_not_known(ignored, status):
    def probe(request):
        if request.schema and "enum" in request.schema:
            return Reply(json.dumps(request.choices[0]), logprobs={'"': 0.0})
        return without("structured_outputs", status=status, ignored=ignored)(request)

    def reply(request):
        return Reply(f' "{request.choices[1]}"\n')

    with ChatServer(reply, probe=probe) as server:
        judge = checked(server)
        answer = ask(judge, choices=("yes", "no"))
        body = server.asked[0].body
    assert judge.capabilities.choices
    assert answer.text == "no"
    assert "structured_outputs" not in body
    assert body["response_format"]["json_schema"]["schema"]["enum"] == ["yes", "no"]


@pytest.mark.parametrize("ignored", [True, False])
def test_where_nothing_is_enforced_answers_are_checked_and_the_notes_say_so(ignored):
    probe = without("structured_outputs", "response_format", ignored=ignored)
    said = iter(["Yes.", "**No**, because", "Maybe", "yesterday"])
    tokens = {"Yes": math.log(0.6), " yes": math.log(0.1), "NO": math.log(0.2), "The": -9.0}
    with ChatServer(lambda _: Reply(next(said), logprobs=tokens), probe=probe) as server:
        judge = checked(server)
        found = [ask(judge, choices=("yes", "no"), logprobs=True) for _ in range(4)]
        plain = server.asked[0].body
    assert (judge.capabilities.choices, judge.capabilities.schemas) == (False, False)
    assert judge.capabilities.logprobs
    assert [any(word in note for note in judge.notes) for word in ("choices", "schemas")] == [1, 1]
    assert found[0].probabilities == pytest.approx({"yes": 7 / 9, "no": 2 / 9})
    assert [a.failure and a.failure.kind for a in found] == [None, None, "malformed", "malformed"]
    assert not {"structured_outputs", "response_format"} & set(plain)


def test_logprobs_that_are_refused_or_left_out_are_no_capability():
    with ChatServer(answers, probe=without("logprobs", "top_logprobs")) as server:
        refused = checked(server)
        ask(refused, choices=("yes", "no"), logprobs=True)
        assert "logprobs" not in server.asked[0].body
    with ChatServer(answers, logprobs=False) as server:
        left_out = checked(server)
    assert refused.capabilities.choices
    assert not refused.capabilities.logprobs
    assert not left_out.capabilities.logprobs


def test_cached_tokens_are_a_capability_only_where_they_are_counted():
    class Silent(ChatServer):
        def send(self, handler, status, body, headers=None):
            body.get("usage", {}).pop("prompt_tokens_details", None)
            super().send(handler, status, body, headers)

    with Silent(answers) as server:
        assert not checked(server).capabilities.cached_tokens


def test_a_schema_that_is_padded_with_white_space_is_enforced_and_the_remedy_noted():
    def probe(request):
        if request.schema:
            return Reply("[true,   \n\n    ", finish="length")
        return vllm_probe(request)

    with ChatServer(answers, probe=probe) as server:
        judge = checked(server)
    assert judge.capabilities.schemas
    assert any("disable_any_whitespace" in note for note in judge.notes)


def test_a_server_that_takes_any_schema_and_ignores_it_enforces_none():
    def probe(request):
        return Reply("Red, green and blue.") if request.schema else vllm_probe(request)

    with ChatServer(answers, probe=probe) as server:
        judge = checked(server)
        ask(judge, schema={"type": "array"})
        assert server.asked[0].schema is None
    assert not judge.capabilities.schemas


# --- the system turn


@pytest.mark.parametrize("dropped", [True, False])
def test_a_template_without_a_system_turn_gets_it_in_the_first_question(dropped):
    def probe(request):
        if request.body["messages"][0]["role"] != "system":
            return vllm_probe(request)
        if dropped:
            return Reply("Hello.", prompt_tokens=9)
        return Reply(status=400, error="System role not supported")

    prompt = Prompt("now", system="be brief", shots=(("a", "b"),))
    with ChatServer(answers, probe=probe) as server:
        judge = checked(server)
        ask(judge, prompt)
        turns = server.asked[0].body["messages"]
    assert [turn["content"] for turn in turns] == ["be brief\n\na", "b", "now"]
    assert any("no system turn" in note for note in judge.notes)


# --- models that think


def thinks(request, when):
    """Whether the template lets the model think."""
    return when(request.body.get("chat_template_kwargs", {}))


def reasoning(request):
    """A reasoning parser: no answer before the thoughts are over."""
    return Reply(None, reasoning="Let me think.", finish="length")


def aloud(request):
    if request.choices:
        return vllm_probe(request)
    return Reply("<think>\nLet me", finish="length")


@pytest.mark.parametrize("thinking", [reasoning, aloud])
@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
def test_thinking_is_switched_off_where_the_template_allows(thinking, switch):
    def probe(request):
        on = request.body.get("chat_template_kwargs", {}).get(switch, True)
        return thinking(request) if on else vllm_probe(request)

    with ChatServer(answers, probe=probe) as server:
        judge = checked(server)
        ask(judge)
        assert server.asked[0].body["chat_template_kwargs"][switch] is False
    assert any("thinking is switched off" in note for note in judge.notes)
    assert judge.capabilities.choices


def test_a_model_that_answers_one_constrained_word_with_none_is_refused_with_the_remedy():
    with (
        ChatServer(answers, probe=reasoning) as server,
        pytest.raises(JudgeError, match=r"known: .*with none.*--judge-extra") as caught,
    ):
        checked(server)
    assert "\n" not in str(caught.value)


def test_what_the_user_passes_through_switches_thinking_off_too():
    def probe(request):
        off = request.body.get("reasoning_effort") == "none"
        return vllm_probe(request) if off else reasoning(request)

    with ChatServer(answers, probe=probe) as server:
        judge = checked(server, extra={"reasoning_effort": "none", "top_k": 1})
        ask(judge)
        assert server.asked[0].body["top_k"] == 1
    assert judge.notes == ()


def test_a_model_that_thinks_aloud_for_ever_is_noted():
    with ChatServer(answers, probe=aloud) as server:
        judge = checked(server)
    assert any("nothing switches that off" in note for note in judge.notes)


def test_thoughts_before_an_answer_are_left_out_and_a_thought_cut_off_is_a_failure():
    said = iter([Reply("<think>so</think>\nfish"), Reply("<think>so and", finish="length")])
    with ChatServer(lambda _: next(said)) as server:
        judge = checked(server)
        whole, cut = ask(judge), ask(judge)
    assert whole.text.strip() == "fish"
    assert cut.failure.kind == "truncated"


# --- readings


def test_a_reply_is_read_with_its_log_probabilities_and_alternatives():
    prompt = Prompt("Why?", system="be brief", reply="The sky is blue.")
    with ChatServer(lambda r: reading(prompt.reply), readings=True) as server:
        judge = checked(server)
        (found,) = run_sync(judge.read([prompt], alternatives=1), judge, "read")
        (bare,) = run_sync(judge.read([prompt]), judge, "read")
        body = server.asked[0].body
    assert found.tokens == ("The", " sky", " is", " blue.")
    assert found.logprobs == (-0.5,) * 4
    assert found.alternatives == ({" other": -0.25},) * 4
    assert bare.alternatives == ()
    assert body["messages"][-1] == {"role": "assistant", "content": "The sky is blue."}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["prompt_logprobs"], body["max_tokens"]) == (1, 1)


def test_a_server_without_readings_is_told_and_asked_for_none():
    with ChatServer(answers) as server:
        judge = checked(server)
        with pytest.raises(JudgeError, match="prompt_logprobs"):
            run_sync(judge.read([Prompt("x", reply="y")]), judge, "read")
        assert server.asked == []


def test_a_prompt_without_a_reply_cannot_be_read():
    with ChatServer(answers, readings=True) as server:
        judge = checked(server)
        with pytest.raises(InputError, match="latent 4 has no reply"):
            run_sync(judge.read([Prompt("x", label="latent 4")]), judge, "read")


def test_readings_of_other_words_are_malformed():
    with ChatServer(lambda r: reading("Somebody else's words."), readings=True) as server:
        judge = checked(server)
        (found,) = run_sync(judge.read([Prompt("x", reply="mine")]), judge, "read")
    assert found.failure.kind == "malformed"


# --- the reply to another request


@pytest.mark.parametrize("swapped", [{"id": "chatcmpl-of-another"}, {"model": "another"}])
def test_the_reply_to_another_request_is_not_taken(swapped):
    replies = iter([Reply("theirs", **swapped), Reply("mine")])
    with ChatServer(lambda _: next(replies)) as server:
        judge = checked(server)
        answer = ask(judge)
        assert len(server.asked) == 2
    assert answer.text == "mine"


def test_only_replies_to_other_requests_are_a_failure():
    with ChatServer(lambda _: Reply("theirs", id="chatcmpl-of-another")) as server:
        answer = ask(checked(server))
    assert answer.failure.kind == "server_error"
    assert "another request" in answer.failure.message


def test_a_server_that_names_requests_and_models_in_its_own_way_is_believed():
    def own(request):
        return Reply("text", id=f"gen-{request.number}", model="known-2026-05-01")

    def probe(request):
        reply = vllm_probe(request)
        return Reply(reply.text, logprobs=reply.logprobs, id="gen-x", model="known-2026-05-01")

    with ChatServer(own, probe=probe) as server:
        assert ask(checked(server)).text == "text"


# --- faults at the start


def test_a_server_too_busy_to_be_probed_loses_no_capability():
    seen = []

    def probe(request):
        seen.append(request)
        return Reply(status=429) if len(seen) % 2 else vllm_probe(request)

    with ChatServer(answers, probe=probe) as server:
        assert checked(server).capabilities.choices


def test_a_server_that_only_turns_away_is_one_line():
    with (
        ChatServer(answers, probe=lambda _: Reply(status=429)) as server,
        pytest.raises(JudgeError, match=r"cannot be used.*429"),
    ):
        checked(server)
