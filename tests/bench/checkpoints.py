"""One random checkpoint, its twin for vLLM, and the export that is served."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from video_llava_export.llama_tokenizer import BEGIN, END, PAD, train_tokenizer
from video_llava_export.names import hub_name
from video_llava_export.random_checkpoint import make_model, read_license
from video_llava_export.tokens import IMAGE_TOKEN, VIDEO_TOKEN
from video_llava_server.manifest import Manifest

from .shapes import (
    HEAD_WIDTH,
    IMAGE_SIZE,
    MAX_POSITIONS,
    NUM_PIECES,
    PATCH_SIZE,
    TOKENS_PER_FRAME,
    TOWER_HEAD_WIDTH,
    VIDEO_TOKENS,
    VOCAB_SIZE,
    WIDE,
    Shape,
)

EXPORT_TIMEOUT_SECONDS = 300
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} ASSISTANT:{% endfor %}"
)


@dataclass(frozen=True)
class Checkpoints:
    """Where everything lies below one folder."""

    folder: Path

    @property
    def video_llava(self) -> Path:
        """The checkpoint in Hugging Face's format."""
        return self.folder / "video_llava"

    @property
    def llava(self) -> Path:
        """The same language model, projector and video tower as a LLaVA-1.5."""
        return self.folder / "llava"

    @property
    def wide(self) -> Path:
        """Layers of the 7B's widths (WIDE), the same for every plan."""
        return self.folder.parent / "wide" / "checkpoint"

    @property
    def model(self) -> Path:
        """The export of `video_llava`."""
        return self.folder / "models" / "bench"

    @property
    def int8_model(self) -> Path:
        """The same with the language model in int8 (W8A8)."""
        return self.folder / "models" / "int8"

    @property
    def wide_model(self) -> Path:
        """The export of `wide`."""
        return self.wide.parent / "models" / "wide"

    @property
    def wide_int8_model(self) -> Path:
        """The same with int8 encoders."""
        return self.wide.parent / "models" / "int8"

    @property
    def chat_template(self) -> Path:
        """Makes of eight images and a question what the server's prompt is."""
        return self.folder / "template.jinja"

    def engine_arguments(self) -> dict[str, Any]:
        """vLLM's, as the export chose them for this CPU."""
        return dict(Manifest.read(self.model).engine_arguments)


def make_checkpoints(made: Checkpoints, shape: Shape) -> None:
    """Write the checkpoints that are not there yet."""
    tokenizer = train_tokenizer([read_license()], num_pieces=NUM_PIECES)
    if not made.chat_template.exists():
        model = _make(tokenizer, shape)
        _write_video_llava(model, tokenizer, made.video_llava)
        write_llava(model, tokenizer, made.llava)
        made.chat_template.write_text(CHAT_TEMPLATE, encoding="utf-8")
    if not (made.wide / "preprocessor_config.json").exists():
        _write_video_llava(_make(tokenizer, WIDE), tokenizer, made.wide)


def _make(tokenizer: PreTrainedTokenizerBase, shape: Shape) -> VideoLlavaForConditionalGeneration:
    model: Any = make_model(make_config(tokenizer, shape), seed=0)
    model.to(torch.bfloat16)
    ids = tokenizer.get_vocab()
    model.generation_config = GenerationConfig(bos_token_id=ids[BEGIN], eos_token_id=ids[END], pad_token_id=ids[PAD])
    return model


def make_config(tokenizer: PreTrainedTokenizerBase, shape: Shape) -> VideoLlavaConfig:
    """The 7B's geometry at the widths and depths of `shape`."""
    ids = tokenizer.get_vocab()
    vision = CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=shape.tower_width,
        intermediate_size=4 * shape.tower_width,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_width // TOWER_HEAD_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // HEAD_WIDTH,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=ids[PAD],
    )
    return VideoLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE_TOKEN],
        video_token_index=ids[VIDEO_TOKEN],
        image_seq_length=TOKENS_PER_FRAME - 1,
        video_seq_length=VIDEO_TOKENS,
    )


def _write_video_llava(
    model: VideoLlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    VideoLlavaImageProcessor().save_pretrained(folder)


def write_llava(model: VideoLlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the twin. It keeps the class token of every image, as Video-LLaVA does of every frame.

    The tensors' names are those of the hub's LLaVA-1.5, which are what vLLM knows.
    """
    source: Any = model.config
    LlavaConfig(
        vision_config=source.vision_config,
        text_config=source.text_config,
        image_token_index=source.image_token_index,
        image_seq_length=TOKENS_PER_FRAME,
        vision_feature_layer=source.vision_feature_layer,
        vision_feature_select_strategy="full",
        architectures=["LlavaForConditionalGeneration"],
        dtype=torch.bfloat16,
    ).save_pretrained(folder)
    names = {name: hub_name(name).replace("video_tower.", "vision_tower.") for name in model.state_dict()}
    weights = {names[name]: tensor for name, tensor in model.state_dict().items() if "image_tower" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model.generation_config.save_pretrained(folder)
    edge, crop = {"shortest_edge": IMAGE_SIZE}, {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    LlavaProcessor(
        CLIPImageProcessor(size=edge, crop_size=crop),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def cache_bytes(shape: Shape, *, num_videos: int) -> int:
    """Keys and values in bfloat16 of so many whole contexts; a video, its question and its answer take less."""
    return num_videos * shape.layers * 2 * shape.kv_heads * HEAD_WIDTH * 2 * MAX_POSITIONS


def export(checkpoint: Path, model: Path, *flags: str, **engine_arguments: Any) -> None:
    """Export for this CPU as users do, into the model folder `model`, unless it is there."""
    if model.exists():
        return
    program = str(Path(sys.executable).with_name("video-llava-export"))
    command = [program, str(checkpoint), "--into", str(model.parent), "--id", model.name, "--profile", "cpu", *flags]
    command += ["--vllm-arguments", json.dumps(engine_arguments)]
    subprocess.run(command, check=True, timeout=EXPORT_TIMEOUT_SECONDS)
