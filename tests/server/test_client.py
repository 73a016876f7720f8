"""The client's whole surface on a real server: asyncio, conversation, probe, limits, command line."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner
from video_llava_client import AsyncVideoLlava, ContextFull, Conventions, VideoLlava, build_prompt
from video_llava_client.cli import app

GREEDY = {"max_tokens": 8, "temperature": 0.0}


def test_asyncio_answers_as_the_blocking_client_does(server, client, clip_path):
    async def ask_all():
        async with AsyncVideoLlava(server.grpc_url) as connected:
            clip = await connected.load(clip_path)
            asked = (connected.ask(f"Question {number}?", video=clip, **GREEDY) for number in range(8))
            answers = await asyncio.gather(*asked)
            async with connected.stream("Question 0?", video=clip_path, **GREEDY) as stream:
                deltas = [delta async for delta in stream]
        return answers, deltas, stream.answer

    answers, deltas, streamed = asyncio.run(ask_all())
    clip = client.load(clip_path)
    with ThreadPoolExecutor(8) as pool:
        expected = list(pool.map(lambda n: client.ask(f"Question {n}?", video=clip, **GREEDY), range(8)))
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    assert streamed.token_ids == expected[0].token_ids
    assert len(deltas) > 1
    seconds = streamed.stage_seconds
    stages = seconds.retries + seconds.transfer + seconds.encode + seconds.queue + seconds.prefill + seconds.generation
    assert stages + seconds.decode + seconds.preprocess == pytest.approx(seconds.total, abs=0.1)
    assert streamed.reused.num_tokens == streamed.num_cached_tokens > 100
    assert (streamed.reused.num_clips, answers[0].reused.num_clips) == (0, 1)


def test_cancelling_a_task_leaves_the_others_alone(server, client):
    async def ask_two():
        async with AsyncVideoLlava(server.grpc_url) as connected:
            endless = {"max_tokens": 600, "sampling": {"ignore_eos": True}}
            left = asyncio.create_task(connected.ask("Who leaves?", **endless))
            stays = asyncio.create_task(connected.ask("Who stays?", **GREEDY))
            answer = await stays
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            return answer

    assert asyncio.run(ask_two()).token_ids == client.ask("Who stays?", **GREEDY).token_ids


def test_a_conversation_is_the_models_own_format_and_reuses_what_was_said(client, clip_path):
    chat = client.chat(video=clip_path)
    first = chat.ask("What happens?", **GREEDY)
    second = chat.ask("And then?", **GREEDY)
    prompt = build_prompt("And then?", num_videos=1, turns=[("What happens?", first.text)])
    assert second.token_ids == client.ask(prompt=prompt, video=client.load(clip_path), **GREEDY).token_ids
    assert second.num_cached_tokens > 100  # the video's positions, in whole blocks of the engine
    assert chat.history.num_positions == second.num_input_tokens + second.num_output_tokens


def test_a_conversation_that_fills_the_context_says_so(client):
    chat = client.chat()
    with pytest.raises(ContextFull, match="the context holds") as caught:
        for number in range(99):
            chat.ask("word " * 200 + f"{number}?", max_tokens=2)
    limits = client.info().limits
    assert limits is not None
    assert caught.value.max_positions == chat.history.max_positions == limits.max_model_len


def test_an_answer_ends_where_the_context_does(client):
    limits = client.info().limits
    assert limits is not None
    chat = client.chat()
    answer = chat.ask("word " * 200, max_tokens=10_000, sampling={"ignore_eos": True})
    assert (answer.finish_reason, chat.history.num_positions_left) == ("length", 0)
    assert answer.num_input_tokens + answer.num_output_tokens == limits.max_model_len


def test_info_tells_the_limits_of_the_checkpoint(client):
    info = client.info()
    assert info.is_ready
    assert info.limits is not None
    assert {model.name for model in info.models} >= {"video_llava", "vicuna", "video_encoder", "image_encoder"}
    assert info.version == "2.51.0"
    assert (info.limits.image_size, info.limits.num_frames) == (56, 8)
    clip = np.zeros((8, 56, 56, 3), np.uint8)
    with_video = client.ask("What?", video=clip, **GREEDY).num_input_tokens
    assert with_video - client.ask("What?", **GREEDY).num_input_tokens == pytest.approx(
        info.limits.tokens_per_video, abs=3
    )


@pytest.mark.parametrize("media", [False, True])
def test_a_probe(client, media):
    probe = client.probe(media=media)
    assert (probe.num_attempts, probe.seconds > 0) == (1, True)


def test_the_command_line(server, clip_path, tmp_path):
    def run(*arguments, code=0, **options):
        result = CliRunner().invoke(app, [*map(str, arguments), "--url", server.grpc_url], **options)
        assert result.exit_code == code, result.output
        return result.stdout

    assert "works: a token after" in run("probe")
    assert json.loads(run("info", "--json"))["limits"]["image_size"] == 56
    assert run("ask", clip_path, "Is it?", "--choice", "yes", "--choice", "no").strip() in ("yes", "no")
    schema = '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}'
    assert "n" in json.loads(run("ask", "How many?", "--json-schema", schema, "--no-stream"))
    assert len(run("chat", clip_path, "--max-tokens", 5, input="What?\nAnd?\n").splitlines()) >= 2
    lines = tmp_path / "in.jsonl"
    lines.write_text(f'{{"question": "What?", "video": "{clip_path}"}}\n' * 6)
    run("batch", lines, tmp_path / "out.jsonl", "--max-tokens", 3)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len({record["text"] for record in records}) == 1
    assert sorted(record["line"] for record in records) == [1, 2, 3, 4, 5, 6]


def test_an_address_without_a_server_costs_one_attempt(client):
    with VideoLlava(["127.0.0.1:1", client.url]) as connected:
        # Its own conventions: else asking the server for them would find the address that is away.
        knowing = connected.with_options(conventions=Conventions())
        answers = [knowing.ask("Who?", **GREEDY) for _ in range(3)]
    assert [answer.num_attempts for answer in answers] == [2, 1, 1]
