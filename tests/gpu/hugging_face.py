"""`model.generate` in bfloat16 on the GPU: in batches, and as the reference of the first tokens."""

from typing import Any

import torch
from bench.contestants.hugging_face import Generator, run_workload
from bench.workloads import Question, Size, Workbook

from .parity import QUESTION, save_reference
from .plan import CHECKPOINTS, DEVICE, GENERATE_BATCHES, PARITY_TOKENS, PLAN
from .runs import Runs


class _Reference(Generator):
    @torch.inference_mode()
    def save(self) -> None:
        """Keep the greedy answer to the question of `parity`, with its logits and the features of its video."""
        inputs = self._inputs([QUESTION])
        output = self._model.generate(
            **inputs,
            max_new_tokens=PARITY_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        features = self._model.model.get_video_features(pixel_values_videos=inputs["pixel_values_videos"])
        features = getattr(features, "pooler_output", features)
        save_reference(
            token_ids=output.sequences[0, inputs["input_ids"].shape[1] :],
            logprobs=torch.stack([logits[0].float().log_softmax(-1) for logits in output.logits]),
            features=features.reshape(-1, features.shape[-1]).float(),
        )


def run() -> dict[str, Any]:
    """Unique videos in batches that grow until the memory is full."""
    generator = _Reference(CHECKPOINTS, torch.bfloat16, DEVICE)
    generator.answer([Question("What happens?", 0)], 2, [])
    generator.save()
    runs, book = Runs("hugging_face"), Workbook(PLAN.num_tokens)
    for batch in GENERATE_BATCHES:
        try:
            runs.add(run_workload("hf_batched", generator, book.make(Size("unique", batch, batch)), batch))
        except torch.OutOfMemoryError:
            runs.values["out_of_memory"] = batch
            break
    return runs.values
