"""Ids without a token have an empty text."""

from typing import Any

from video_llava_export.llama_tokenizer import train_tokenizer
from video_llava_export.random_checkpoint import read_license
from video_llava_server.token_texts import accept_ids_without_token
from vllm.tokenizers import detokenizer_utils


def test_an_id_without_a_token_has_an_empty_text(monkeypatch):
    tokenizer: Any = train_tokenizer([read_license()], num_pieces=400)
    ids = tokenizer.encode("what is", add_special_tokens=False)
    assert detokenizer_utils.get_leading_space_marker(tokenizer) == "▁"
    known = detokenizer_utils.convert_ids_list_to_tokens(tokenizer, ids)
    monkeypatch.setattr(detokenizer_utils, "_restore_leading_spaces", detokenizer_utils._restore_leading_spaces)
    accept_ids_without_token()
    assert detokenizer_utils.convert_ids_list_to_tokens(tokenizer, [*ids, len(tokenizer)]) == [*known, ""]
