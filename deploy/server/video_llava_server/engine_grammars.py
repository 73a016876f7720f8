"""In the engine's process: constraints come compiled (grammars.py), and are only read.

vLLM has no place for that. So the engine gets a grammar that no answer may follow, with the file of the compiled one in
a comment, and `make_scheduler`, named as its `scheduler_cls`, gives it a backend that reads that file.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import xgrammar as xgr
from vllm.config import VllmConfig
from vllm.v1.core.sched.interface import SchedulerInterface
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar, StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend, XgrammarGrammar

from .engine_priority import with_priority

SCHEDULER = "video_llava_server.engine_grammars.make_scheduler"
# How many are read at once, how many may wait for one, and how many are kept.
_NUM_READERS, _NUM_WAITING, _NUM_KEPT = 8, 64, 16


def reference(path: str) -> str:
    """Return the grammar that stands for the compiled one in the file `path`; each file has a path of its own."""
    return f'# {path}\nroot ::= "the compiled grammar was not read"'


def make_scheduler(
    *, vllm_config: VllmConfig, structured_output_manager: StructuredOutputManager, **options: Any
) -> SchedulerInterface:
    """Make the scheduler that vLLM would make itself, once the manager of constraints reads compiled ones."""
    manager = structured_output_manager
    vocab_size = vllm_config.model_config.get_vocab_size()
    tokenizer: Any = manager.tokenizer
    manager.backend = CompiledGrammars(vllm_config, tokenizer=tokenizer, vocab_size=vocab_size)
    manager.executor = ThreadPoolExecutor(_NUM_WAITING, "grammars")
    vllm_config.scheduler_config.scheduler_cls = None
    make: Any = vllm_config.scheduler_config.get_scheduler_cls()
    if vllm_config.scheduler_config.policy == "priority":
        make = with_priority(make)
    return make(vllm_config=vllm_config, structured_output_manager=manager, **options)


class CompiledGrammars(XgrammarBackend):
    """Reads compiled grammars, and keeps the last ones."""

    def __post_init__(self) -> None:
        """Prepare; the fields are vLLM's."""
        super().__post_init__()
        tokenizer: Any = self.tokenizer
        self._tokenizer_info = xgr.TokenizerInfo.from_huggingface(tokenizer, vocab_size=self.vocab_size)
        self._readers = ThreadPoolExecutor(_NUM_READERS, "read grammars")
        self._reading = lru_cache(_NUM_KEPT)(self._begin_to_read)

    def _begin_to_read(self, path: str) -> Future[xgr.CompiledGrammar]:
        return self._readers.submit(self._read, path)

    def _read(self, path: str) -> xgr.CompiledGrammar:
        text = Path(path.partition(" ")[2]).read_text(encoding="utf-8")
        return xgr.CompiledGrammar.deserialize_json(text, self._tokenizer_info)

    def compile_grammar(
        self, request_type: StructuredOutputOptions, grammar_spec: str, stop_token_ids: set[int] | None = None
    ) -> StructuredOutputGrammar:
        """Return the grammar that `grammar_spec` refers to."""
        del request_type
        compiled = self._reading(grammar_spec.partition("\n")[0].removeprefix("# ")).result()
        matcher = xgr.GrammarMatcher(
            compiled,
            override_stop_tokens=list(stop_token_ids) if stop_token_ids else None,
            max_rollback_tokens=self.num_speculative_tokens,
        )
        return XgrammarGrammar(matcher=matcher, vocab_size=self.vocab_size, ctx=compiled)
