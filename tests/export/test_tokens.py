import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from video_llava_export.errors import CheckpointError, VerificationError
from video_llava_export.tokens import load_tokenizer, write_tokenizer

PROMPTS = [
    "USER: <video>\nWhat? ASSISTANT:",
    "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: And now? ASSISTANT:",
    "USER: <image><image>\n<video>\nCompare. ASSISTANT:",
    "<video>",
    "",
    "two  spaces,\n\nlines\tand tabs ",
    "Größe, 猫はどこ, مرحبا",
    "a bike 🚲, an astronaut 👩‍🚀",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_written_tokenizer_gives_the_ids_of_the_source(exported, small_checkpoint, prompt):
    bare = Tokenizer.from_file(str(exported.folder / "language_model/tokenizer.json"))
    expected = AutoTokenizer.from_pretrained(small_checkpoint)(prompt)["input_ids"]
    assert bare.encode(prompt).ids == expected
    assert expected[0] == 1


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_survives_its_tokens(exported, prompt):
    bare = Tokenizer.from_file(str(exported.folder / "language_model/tokenizer.json"))
    ids = bare.encode(prompt, add_special_tokens=False).ids
    assert bare.decode(ids, skip_special_tokens=False) == prompt


def test_placeholder_with_another_id_is_refused(editable):
    editable.edit("config.json", video_token_index=7)
    with pytest.raises(CheckpointError, match=r"gives <video> the id 1001, config\.json 7"):
        load_tokenizer(editable.folder, editable.open().config)


def test_tokenizer_without_placeholders_is_refused(editable):
    path = editable.folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<image>", "<picture>"), encoding="utf-8")
    editable.edit("tokenizer_config.json", extra_special_tokens=["<video>"])
    with pytest.raises(CheckpointError, match=r"gives <image> the id None, config\.json 1000"):
        load_tokenizer(editable.folder, editable.open().config)


def test_missing_tokenizer_is_refused(editable):
    editable.remove("tokenizer.json", "tokenizer_config.json")
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        load_tokenizer(editable.folder, editable.open().config)


def test_written_file_with_other_ids_is_refused(editable, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(editable.folder, editable.open().config)
    other = Tokenizer.from_file(str(editable.folder / "tokenizer.json"))
    other.post_processor = None  # pyright: ignore[reportAttributeAccessIssue] - forgets the begin token
    monkeypatch.setattr(Tokenizer, "from_file", lambda _path: other)
    with pytest.raises(VerificationError, match=r"gives other ids than the checkpoint's for 'USER: <video>"):
        write_tokenizer(tokenizer, tmp_path)
