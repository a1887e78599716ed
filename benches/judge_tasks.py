"""What the judges' figures time, each in a process of its own.

    child("benches.judge_tasks", "pipeline", work="/tmp/glossator-judges", model="smollm2")
    child("benches.judge_tasks", "overhead", work="/tmp/glossator-judges")

`pipeline` gives the same prompts to one engine three ways in turn: through scoring, to its
`generate` as fast as it takes them, and to vLLM's offline `LLM`, which lives in this process
beside it. All three have the same engine arguments and the same sampling parameters, the last two
prompts that are tokenised already; every run begins with an empty prefix cache.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from benches.judge_world import make, record, score, shared_prefixes
from benches.measure import serve

BLOCK = 32
CHOICES_ALTERNATIVES = 5


def model_path(work, model):
    """`smollm2`, or `tiny`: two layers of width 64, heads of 32, and SmolLM2's own tokenizer."""
    from glossator.subjects import smollm2_path

    if model == "smollm2":
        return smollm2_path()
    path = Path(work) / "tiny-judge"
    if not (path / "model.safetensors").is_file():
        import torch
        import transformers

        torch.manual_seed(0)
        tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2_path())
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=8192,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        transformers.LlamaForCausalLM(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return path


def pipeline(work, model, latents, rounds, offline=True):
    """Seconds of every run, ways in turn; tokens of one; what the prefix cache had."""
    from glossator.judges.engine import EngineJudge
    from glossator.judges.engine_requests import first_token

    world = make(work, latents)
    asked = record(world)
    arguments = {"disable_log_stats": False, "max_model_len": 2048}
    path = model_path(work, model)
    with EngineJudge(path, engine=arguments) as judge:
        asyncio.run(judge.check())
        ids, prefixes = shared_prefixes(asked, judge._chat.tokens)
        params = first_token(("yes", "no"), CHOICES_ALTERNATIVES)
        prompts = [{"prompt_token_ids": row} for row in ids]
        host = judge._host
        engine = asyncio.run(host.engine())
        cached = []

        def empty():
            asyncio.run(host.run(engine.reset_prefix_cache()))

        def through():
            empty()
            before = _hits()
            timed = _timed(lambda: score(world, judge))
            cached.append(_hits() - before)
            return timed

        def direct():
            empty()
            return _timed(lambda: asyncio.run(host.run(_all(engine, prompts, params))))

        ways = {"glossator": through, "peer: AsyncLLM.generate, tokenised": direct}
        llm = _offline(path, arguments) if offline else None
        if llm is not None:

            def generated():
                llm.reset_prefix_cache()
                return _timed(lambda: llm.generate(prompts, params, use_tqdm=False))

            ways["peer: LLM.generate, tokenised"] = generated
        for way in ways.values():  # kernels, grammars, threads
            way()
        cached.clear()
        found = {name: {"seconds": [], "cpu": []} for name in ways}
        for number in range(rounds):
            # Everyone comes first, and last, as often as the others.
            names = list(ways)[:: 1 if number % 2 else -1]
            for name in names:
                seconds, cpu = ways[name]()
                found[name]["seconds"].append(seconds)
                found[name]["cpu"].append(cpu)
        blocks = [length // BLOCK * BLOCK for length in prefixes]
        return {
            "ways": found,
            "prompts": len(ids),
            "tokens": sum(map(len, ids)) + len(ids),
            "prefix": sorted(prefixes)[len(prefixes) // 2],
            "prefix_blocks": sum(blocks),
            "hits": cached,
        }


def tokens(work, latents):
    """New tokens of each latent's explanation and of its scoring, at two lengths of windows.

    The tiny model's own explanations are noise: they are counted at the length of `world`'s.
    """
    import glossator as gl
    from glossator.explain import explainer_of
    from glossator.judges.engine import EngineJudge
    from glossator.score.presets import PRESETS

    world = make(work, latents)
    preset = PRESETS["glossator"]
    found = {}
    with EngineJudge(model_path(work, "tiny"), engine={"max_model_len": 8192}) as judge:
        asyncio.run(judge.check())
        written = [len(judge._chat._encoded(one.text)) for one in world.explanations]
        for window in (32, 16):
            settings = {**preset.explainer_settings, "length": window}
            plan = preset.plan.model_copy(update={"length": window})
            explained = gl.explain(
                world.index,
                range(latents),
                explainer=explainer_of(preset.explainer, **settings),
                judge=judge,
                text=world.text,
            )
            scored = score(world, judge, plan=plan)
            explaining = explained.usage.unique_prompt_tokens + sum(written)
            scoring = sum(
                entry.unique_prompt_tokens + entry.completion_tokens for entry in scored.usage
            )
            found[window] = {
                "all": (explaining + scoring) / latents,
                "the explanation": explaining / latents,
                "the scoring": scoring / latents,
            }
    return {"windows": found, "latents": latents}


async def _all(engine, prompts, params):
    """Every prompt at once, as an engine likes it best."""

    async def one(number, prompt):
        async for output in engine.generate(prompt, params, f"direct-{time.time()}-{number}"):
            last = output
        return last

    return await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


def _offline(path, arguments):
    """vLLM's own class for batches, with the arguments that the judge's engine has."""
    from vllm import LLM

    from glossator.judges.hosting import _ARGUMENTS, _ARGUMENTS_ON_CPU, _cpu_environment

    os.environ.update(_cpu_environment())
    given = {**_ARGUMENTS, **_ARGUMENTS_ON_CPU, **arguments, "disable_log_stats": True}
    return LLM(str(path), **given)


def _hits():
    """vLLM's own counter of prompt tokens that its prefix cache had."""
    from vllm.v1.metrics.reader import get_metrics_snapshot

    found = [m.value for m in get_metrics_snapshot() if m.name == "vllm:prefix_cache_hits"]
    return sum(found)


def _timed(work):
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - cpu


def overhead(work, latents, rounds):
    """CPU seconds of this process: scoring with a judge that is none, and over a stub of a server
    with and without us.
    """
    world = make(work, latents)
    asked = record(world)  # reads the index's pages once
    null = [_timed(lambda: record(world))[1] for _ in range(rounds)]
    ours, bare = asyncio.run(_over_http(world, rounds))
    return {"prompts": len(asked), "null": null, "http": ours, "client": bare}


async def _over_http(world, rounds):
    """CPU seconds of scoring through `OpenAIJudge`, and of its client sending the same bodies."""
    import openai
    from benches.judge_world import SCORERS

    import glossator as gl
    from glossator.judges.openai_server import OpenAIJudge

    stub = await asyncio.create_subprocess_exec(
        *_STUB, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE
    )
    url = f"http://127.0.0.1:{int(await stub.stdout.readline())}/v1"
    bodies = []
    ours, bare = [], []
    try:
        judge = OpenAIJudge(url, "stub", concurrency=32)
        await judge.check()
        post = judge._connection.post

        async def noting(path, body, request_id):
            bodies.append(body)
            return await post(path, body, request_id)

        async def scored():
            await gl.ascore(
                world.index,
                world.explanations,
                judge=judge,
                text=world.text,
                scorers=SCORERS,
            )

        judge._connection.post = noting
        await scored()
        judge._connection.post = post
        client = openai.AsyncOpenAI(
            base_url=url,
            api_key="none",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
        )

        async def sent():
            left = iter(bodies)

            async def work():
                for body in left:
                    await client.post("/chat/completions", cast_to=object, body=body)

            await asyncio.gather(*(work() for _ in range(32)))

        await sent()
        for _ in range(rounds):
            for work, kept in ((scored, ours), (sent, bare)):
                begun = time.process_time()
                await work()
                kept.append(time.process_time() - begun)
        await judge.close()
        await client.close()
    finally:
        stub.stdin.close()
        await stub.wait()
    return ours, bare


def stub():
    """A server that says yes, two to one, to everything; it ends with its standard input."""
    entry = {"token": "yes", "logprob": -0.405, "bytes": None}
    other = {"token": "no", "logprob": -1.099, "bytes": None}

    def reply(body):
        held = body.get("structured_outputs", {}).get("choice") or ["[true,true,true]"]
        said = held[0] if "yes" not in held else "yes"
        place = {**entry, "token": said, "top_logprobs": [{**entry, "token": said}, other]}
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [place]}
        usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
        usage["prompt_tokens_details"] = {"cached_tokens": 400}
        said = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return json.dumps({**said, "choices": [choice], "usage": usage}).encode()

    async def serve_one(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length)
                if head.startswith(b"GET"):
                    data = b'{"object": "list", "data": [{"id": "stub", "object": "model"}]}'
                else:
                    data = reply(json.loads(body))
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def live():
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(live())


_STUB = (sys.executable, "-c", "from benches.judge_tasks import stub; stub()")


if __name__ == "__main__":
    serve({"pipeline": pipeline, "tokens": tokens, "overhead": overhead})
