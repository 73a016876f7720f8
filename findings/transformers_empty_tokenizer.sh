#!/bin/bash
# transformers 5.19 makes a tokenizer without a vocabulary where the vocabulary's file is missing.
#
# Expected: a folder with `tokenizer_config.json` alone (of a partial download, or a Trainer's output folder) is an
#           error, as in transformers 4.57.
# Real:     no error and no warning: a LlamaTokenizer with its special tokens only, for which every text has no ids.
# So what:  a model with this tokenizer answers an empty prompt. Check for `tokenizer.json` or `tokenizer.model`.
#
# Prints what it saw; exit code 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.19.0
mkdir "$folder/model"
echo '{"model_type": "llama"}' > "$folder/model/config.json"
echo '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}' \
  > "$folder/model/tokenizer_config.json"
"$folder/venv/bin/python" - "$folder/model" <<'END'
import sys

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("Hello world, how are you?")["input_ids"]
print(f"{type(tokenizer).__name__} with {len(tokenizer)} tokens; a text has {len(ids)} ids")
assert (len(tokenizer), ids) == (3, [])
END
