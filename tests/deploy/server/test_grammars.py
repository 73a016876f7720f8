"""A constraint is compiled within its limits, and costs nobody else anything."""

import asyncio
import importlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
import xgrammar as xgr
from google.protobuf import text_format
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from video_llava_server import grammars as module
from video_llava_server.engine import read_engine_arguments
from video_llava_server.errors import Internal, InvalidArgument, Unavailable
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

TESTS = Path(__file__).parents[2]
OVERLAY = TESTS / "support/overlay/vicuna/1"
CONFIG = TESTS.parent / "model_repository/vicuna/config.pbtxt"
LETTERS = [chr(number) for number in range(32, 127)]
TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.BPE({letter: number for number, letter in enumerate([*LETTERS, "</s>"])}, [])),
    eos_token="</s>",
)
LIMITS = module.CompileLimits(max_compile_seconds=4, max_compile_bytes=2**28)
AN_INTEGER = {"type": "integer"}


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def grammars(runner):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OVERLAY)
        compile_slowly = importlib.import_module("slow_compiles").compile_slowly

        patch.setattr(module, "compile_constraint", compile_slowly)
        made = module.Grammars(LIMITS)
        made.start(TOKENIZER, len(TOKENIZER), has_blanks=False)
        assert compile_within(runner, made, choice=["a"])
        yield made
        made.stop()
    assert not Path(f"/proc/{worker_pid(made)}").exists()


def worker_pid(grammars):
    return grammars._worker.result()._process.pid


def compiles(grammars):
    """Return the processes that compile."""
    pid = worker_pid(grammars)
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def count_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def sampling(**constraint):
    return SamplingParams(structured_outputs=StructuredOutputsParams(**constraint))


def asleep(number=0, *, seconds=60):
    return sampling(grammar=f'root ::= "sleep {seconds} {number}"')


async def use(grammars, given):
    """Return the file's path and content."""
    async with grammars.compiled(given) as made:
        path = made.structured_outputs.grammar.partition("\n")[0].removeprefix("# ")
        return path, Path(path.split()[1]).read_text()


def compile_within(runner, grammars, *, seconds=60, **constraint):
    _, text = runner.run(asyncio.wait_for(use(grammars, sampling(**constraint)), seconds))
    info = xgr.TokenizerInfo.from_huggingface(TOKENIZER, vocab_size=len(TOKENIZER))
    return xgr.CompiledGrammar.deserialize_json(text, info)


def accepts(grammar, text):
    matcher = xgr.GrammarMatcher(grammar)
    return matcher.accept_string(text) and matcher.accept_token(len(LETTERS))


async def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("constraint", "right", "wrong"),
    [
        ({"choice": ["yes", 'n"o']}, 'n"o', "no"),
        ({"json": {"type": "array", "items": AN_INTEGER}}, "[1,2]", "[1, 2]"),
        ({"json": json.dumps(AN_INTEGER)}, "-12", "1.5"),
        ({"json_object": True}, '{"a":[]}', "[]"),
        ({"regex": "a{2,3}"}, "aaa", "a"),
        ({"grammar": 'root ::= "a" | "b"'}, "b", "c"),
        ({"grammar": 'start: "a" | "b"'}, "b", "c"),
        (
            {
                "structural_tag": '{"structures": [{"begin": "<a>", "schema": {"type": "integer"}, "end": "</a>"}], '
                '"triggers": ["<a>"]}'
            },
            "x<a>1</a>",
            "<a>x</a>",
        ),
        (
            {
                "structural_tag": '{"type": "structural_tag", "format": {"type": "json_schema", "json_schema": '
                '{"type": "integer"}}}'
            },
            "1",
            "x",
        ),
    ],
)
def test_each_kind_is_compiled(runner, grammars, constraint, right, wrong):
    grammar = compile_within(runner, grammars, **constraint)
    assert accepts(grammar, right)
    assert not accepts(grammar, wrong)


def test_what_has_no_constraint_stays_as_it_is(runner, grammars):
    given = SamplingParams()

    async def check():
        async with grammars.compiled(given) as made:
            assert made is given

    runner.run(check())


@pytest.mark.parametrize(
    ("constraint", "error"),
    [
        ({"grammar": "root ::= ("}, "cannot be compiled: EBNF parser error at line 1"),
        ({"grammar": "root ::= root"}, "cannot be compiled: it allows no first token"),
        ({"regex": "("}, "cannot be compiled: Regex parsing error"),
        ({"choice": []}, "cannot be compiled: EBNF parser error"),
        ({"json": "{"}, "is not valid: Expecting property name"),
        ({"json_object": False}, "is not valid: No valid structured output parameter"),
        ({"json": {"type": "string", "format": "color"}}, "the grammar would ignore a part"),
        ({"grammar": f'root ::= "allocate {2**30}"'}, "too much memory to compile, max_compile_bytes is 268,435,456"),
        ({"grammar": 'root ::= "sleep 60"'}, "too much time to compile, max_compile_seconds is 4: make it smaller"),
    ],
)
def test_what_cannot_be_compiled_is_refused(runner, grammars, constraint, error):
    with pytest.raises(InvalidArgument, match=f"sampling_parameters: structured_outputs .*{error}"):
        compile_within(runner, grammars, **constraint)
    runner.run(until(lambda: not compiles(grammars)))


def test_a_compile_ends_with_the_last_who_waits_for_it(runner, grammars):
    async def check():
        users = [asyncio.create_task(use(grammars, asleep())) for _ in range(3)]
        await until(lambda: compiles(grammars))
        one = compiles(grammars)
        users[0].cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(users[1], 0.05)
        assert compiles(grammars) == one
        users[2].cancel()
        await asyncio.wait(users)
        await until(lambda: not compiles(grammars))

    runner.run(check())


def test_one_compile_serves_all_who_wait_and_those_who_come_soon(runner, grammars):
    async def check():
        first, second = await asyncio.gather(*(use(grammars, asleep(seconds=1)) for _ in range(2)))
        began = time.monotonic()
        assert await use(grammars, asleep(seconds=1)) == first == second
        assert time.monotonic() - began < 1

    runner.run(check())


def test_slow_compiles_hold_up_nobody(runner, grammars, monkeypatch):
    monkeypatch.setattr(grammars, "_limits", module.CompileLimits(max_compile_seconds=60))

    async def check():
        slow = [asyncio.create_task(use(grammars, asleep(number))) for number in range(module.MAX_COMPILES)]
        await until(lambda: len(compiles(grammars)) == len(slow))
        for number in range(3):
            await use(grammars, sampling(choice=[f"new {number}"]))
        with pytest.raises(Unavailable, match="too many constraints are compiled at once"):
            await slow[0]
        assert not slow[-1].done()
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)

    runner.run(check())


def test_of_many_files_the_last_used_are_kept(runner, grammars, monkeypatch):
    async def paths(number):
        return [(await use(grammars, sampling(choice=[f"{each}"])))[0] for each in range(number)]

    many = runner.run(paths(3))
    assert runner.run(paths(3)) == many
    monkeypatch.setattr(module, "_MAX_IDLE_BYTES", 1)
    num_files = count_files()
    assert not {*runner.run(paths(3))} & {*many[1:]}
    assert count_files() <= num_files - 3


def test_the_death_of_a_compile_or_of_the_worker_is_an_error_for_those_who_wait(runner, grammars):
    with pytest.raises(Internal, match="the process that compiled structured_outputs ended without a result"):
        compile_within(runner, grammars, grammar='root ::= "die"')

    async def check():
        slow = asyncio.create_task(use(grammars, asleep()))
        await until(lambda: compiles(grammars))
        os.kill(worker_pid(grammars), signal.SIGKILL)
        with pytest.raises(Internal, match="the process that compile"):
            await slow

    runner.run(check())
    assert accepts(compile_within(runner, grammars, choice=["after"]), "after")


def test_while_the_worker_loads_nothing_is_stopped(runner, grammars):
    grammars._worker.result()._process.kill()
    grammars._worker.result()._process.join(timeout=30)

    async def early(number):
        while True:
            try:
                return await use(grammars, sampling(choice=[f"early {number}"]))
            except Unavailable:  # on a busy machine, later
                assert grammars._worker.result().is_loaded

    async def check():
        many = [early(number) for number in range(3 * module.MAX_COMPILES)]
        assert len({path for path, _ in await asyncio.gather(*many)}) == len(many)

    runner.run(check())


def test_of_all_files_together_there_is_a_limit(runner, grammars, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 1)
    with pytest.raises(Unavailable, match="the constraints of all requests have more than 1 bytes"):
        compile_within(runner, grammars, choice=["one more"])


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ({"scheduler_cls": "a.B"}, "scheduler_cls cannot be set"),
        ({"structured_outputs_config": {"backend": "guidance"}}, "backend is 'guidance', it must be xgrammar"),
    ],
)
def test_an_engine_that_would_not_read_what_is_compiled_is_refused(tmp_path, argument, error):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"model": "a", **argument}))
    with pytest.raises(ValueError, match=error):
        read_engine_arguments(path)


def test_the_committed_limits_are_the_defaults():
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse(CONFIG.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())  # pyright: ignore
    given = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    assert {"max_compile_seconds", "max_compile_bytes"} <= given.keys()
    assert module.CompileLimits.from_config(given) == module.CompileLimits()
    with pytest.raises(ValueError, match=r"max_compile_seconds of vicuna/config\.pbtxt is '0'"):
        module.CompileLimits.from_config({"max_compile_seconds": {"string_value": "0"}})
