"""Texts of ids that have no token: checkpoints have more rows than tokens (7B: 32,064 and 32,003).

vLLM 0.32 has none for them if the tokenizer marks spaces, as Llama's does.
"""

from typing import Any

from vllm.tokenizers import detokenizer_utils


def accept_ids_without_token() -> None:
    """Let vLLM give them an empty text among log probabilities. For the process that reads the engine's output."""
    module: Any = detokenizer_utils
    restore = module._restore_leading_spaces

    def restore_or_empty(raw_token: str | None, text: str, marker: str) -> str:
        return text if raw_token is None else restore(raw_token, text, marker)

    module._restore_leading_spaces = restore_or_empty
