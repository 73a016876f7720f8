#!/bin/bash
# AIPerf 0.13.0 does not take a tokenizer from a folder when HF_HUB_OFFLINE=1 is set.
#
# Expected: --tokenizer FOLDER needs no network, so it works with HF_HUB_OFFLINE=1 as it does without; transformers'
#           AutoTokenizer.from_pretrained(FOLDER) works with both.
# Real:     "Failed to load tokenizer ...: HFValidationError: Repo id must be in the form 'repo_name' or
#           'namespace/repo_name'", and the benchmark ends before its first request. When offline, AIPerf asks
#           huggingface_hub for a snapshot of that name, also if it is a folder.
# So what:  without a network, leave HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE unset if the tokenizer is a folder.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiperf==0.13.0 transformers==5.24.0 huggingface_hub==1.33.0
export HF_HOME="$folder/cache"
cat > "$folder/load.py" <<'END'
import sys

from aiperf.common.tokenizer import Tokenizer
from tokenizers import Tokenizer as Words
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

folder = sys.argv[1]
words = Words(WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
assert AutoTokenizer.from_pretrained(folder).encode("a") == [1]
try:
    print("AIPerf reads", Tokenizer.from_pretrained(folder).encode("a"))
except Exception as exc:
    print(str(exc).replace(folder, "FOLDER"))
END
run() { "$folder/venv/bin/python" "$folder/load.py" "$folder/tokenizer" 2> "$folder/log" || { cat "$folder/log" >&2; exit 1; }; }
online=$(run)
offline=$(HF_HUB_OFFLINE=1 run)
printf 'as usual: %s\nHF_HUB_OFFLINE=1: %s\n' "$online" "$offline"
test "$online" = "AIPerf reads [1]"
[[ $offline == *"Failed to load tokenizer"*"HFValidationError"* ]]
