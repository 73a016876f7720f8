#!/bin/bash
# xgrammar 0.2.8 compiles JSON Schemas with words that it does not keep, most of them without a warning.
#
# Expected: a schema that the grammar cannot keep is an error, or at least a warning.
# Real:     it compiles, and the grammar accepts JSON that the schema forbids: `not`, `if`/`then`/`else`,
#           `dependentRequired`, `dependentSchemas`, `contains`, `uniqueItems`; a limit such as `minimum` without `type`;
#           words beside `anyOf`. With a warning on stderr: `multipleOf` of a number, `allOf` with two branches, `oneOf`
#           whose branches overlap.
# So what:  whoever constrains an answer by such a schema must check the answer, or refuse the schema, as this server does.
#
# Seen: "accepted" for all but the last two, which show that the grammar keeps what it reads.
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    xgrammar==0.2.8 apache-tvm-ffi==0.1.15.post2 torch==2.13.0 transformers==5.19.0 numpy==1.26.4
cd "$folder"
venv/bin/python - <<'END'
import json
import os
import sys
import tempfile
from importlib.metadata import version

import xgrammar as xgr

THREE = {"type": "integer", "const": 3}
AN_OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
# A schema, and JSON that it forbids.
CASES = {
    "not": ({"type": "integer", "not": {"const": 3}}, 3),
    "if, then": ({**AN_OBJECT, "if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}),
    "if, else": ({**AN_OBJECT, "if": {"required": ["a"]}, "else": {"required": ["b"]}}, {}),
    "dependentRequired": ({**AN_OBJECT, "dependentRequired": {"a": ["b"]}}, {"a": 1}),
    "dependentSchemas": ({**AN_OBJECT, "dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}),
    "contains": ({"type": "array", "items": {"type": "integer"}, "contains": THREE}, [1]),
    "uniqueItems": ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, [1, 1]),
    "multipleOf": ({"type": "number", "multipleOf": 2}, 3),
    "minimum without type": ({"minimum": 5}, 3),
    "required beside anyOf": ({"anyOf": [AN_OBJECT], "required": ["a"]}, {}),
    "allOf with two branches": ({"allOf": [{"type": "integer"}, {"const": 5}]}, 3),
    "oneOf that overlaps": ({"oneOf": [{"type": "integer"}, THREE]}, 3),
    "control: const": (THREE, 4),
    "control: minimum": ({"type": "integer", "minimum": 5}, 3),
}
VOCABULARY = [*map(chr, range(32, 127)), "</s>"]
compiler = xgr.GrammarCompiler(xgr.TokenizerInfo(VOCABULARY, stop_token_ids=[len(VOCABULARY) - 1]))


def accepts(schema, value):
    """Return whether the grammar accepts the value, and what the library wrote to stderr."""
    with tempfile.TemporaryFile() as written:
        stderr = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            matcher = xgr.GrammarMatcher(compiler.compile_json_schema(schema))
            accepted = matcher.accept_string(json.dumps(value)) and matcher.accept_token(len(VOCABULARY) - 1)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        written.seek(0)
        return accepted, written.read().decode()


WARNED = {"multipleOf", "allOf with two branches", "oneOf that overlaps"}
print("xgrammar", version("xgrammar"))
as_expected = True
for name, (schema, forbidden) in CASES.items():
    accepted, warning = accepts(schema, forbidden)
    print(f"{name:24} {json.dumps(forbidden):8} {'accepted' if accepted else 'refused'}{', warned' if warning else ''}")
    as_expected &= accepted != name.startswith("control") and bool(warning) == (name in WARNED)
sys.exit(0 if as_expected else 1)
END
