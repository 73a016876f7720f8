"""`model.generate` in bfloat16 on the GPU: in batches, and as the reference of the first tokens."""

from typing import Any

import numpy as np
import torch
from bench.contestants import hugging_face
from bench.workloads import Question, Size, Workbook, frames_of

from .card import Card
from .parity import QUESTION, save_reference
from .plan import CHECKPOINTS, DEVICE, GENERATE_BATCHES, PARITY_TOKENS, PLAN
from .runs import Runs


class Generator(hugging_face.Generator):
    """On the GPU: inputs are made there, pixels are taken there."""

    def __init__(self) -> None:
        super().__init__(CHECKPOINTS, torch.bfloat16)
        self._model.to(DEVICE)
        torch.set_default_device(DEVICE)

    def _pixels(self, frames: np.ndarray) -> torch.Tensor:
        return super()._pixels(frames).to(DEVICE)

    @torch.inference_mode()
    def reference(self) -> None:
        """Keep the greedy answer to the question of `parity`, with its logits and the features of its video."""
        inputs = self._tokenizer([hugging_face._prompt(QUESTION)], return_tensors="pt")
        inputs.pop("token_type_ids", None)
        assert QUESTION.clip is not None
        pixels = self._pixels(frames_of(QUESTION.clip))[None]
        output = self._model.generate(
            **inputs,
            pixel_values_videos=pixels,
            max_new_tokens=PARITY_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        features = self._model.model.get_video_features(pixel_values_videos=pixels)
        features = getattr(features, "pooler_output", features)
        save_reference(
            token_ids=output.sequences[0, inputs["input_ids"].shape[1] :],
            logprobs=torch.stack([logits[0].float().log_softmax(-1) for logits in output.logits]),
            features=features.reshape(-1, features.shape[-1]).float(),
        )


def run() -> dict[str, Any]:
    """Unique videos in batches that grow until the memory is full."""
    generator = Generator()
    generator.answer([Question("What happens?", 0)], 2, [])
    generator.reference()
    runs, book = Runs("hugging_face"), Workbook(PLAN.num_tokens)
    for batch in GENERATE_BATCHES:
        workload = book.make(Size("unique", batch, batch))
        try:
            with Card() as card:
                run = hugging_face._run_workload("hf_batched", generator, workload, batch)
        except torch.OutOfMemoryError:
            break
        runs.add(run, [answer.inter_token_seconds for answer in run.answers], card)
    return runs.to_json()
