"""Make the schemas in this folder of CustomResourceDefinitions: `python make.py CRD.yaml … `, from a project's release.

Descriptions go, which are most of it; pods go, which tests check against Kubernetes' own schemas; and what is not
named in a schema is not allowed, as `kubectl --validate=strict` has it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

# Property names under which these resources hold pods, or what is made of pods' parts.
POD_PARTS = {"leaderTemplate", "workerTemplate", "workerSpec", "containers", "initContainers", "volumes", "affinity"}
POD_PARTS |= {"jobTargetRef", "volumeClaimTemplates", "tolerations", "imagePullSecrets", "imageVolumes"}


def strict(schema: Any) -> Any:
    """A Kubernetes structural schema as JSON schema."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: strict(value) for key, value in schema.items() if not _is_comment(key, value)}
    if isinstance(pattern := kept.get("pattern"), str):
        kept["pattern"] = pattern.replace("^(?i)", "(?i)^")  # Go's place for it, and Python's
    if kept.pop("x-kubernetes-int-or-string", False):
        kept.pop("type", None)
    if "properties" in schema and isinstance(schema["properties"], dict):
        names = schema["properties"].items()
        kept["properties"] = {name: {} if name in POD_PARTS else strict(value) for name, value in names}
        if schema.get("type") == "object" and "x-kubernetes-preserve-unknown-fields" not in schema:
            kept["additionalProperties"] = False
    return {key: value for key, value in kept.items() if not key.startswith("x-kubernetes")}


def _is_comment(key: str, value: Any) -> bool:
    return key == "description" and isinstance(value, str)


def main() -> None:
    """One JSON file for each version that is served."""
    for path in map(Path, sys.argv[1:]):
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        for version in definition["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            schema["properties"].pop("status", None)
            name = f"{definition['names']['kind']}.{definition['group']}.{version['name']}.json"
            text = json.dumps(schema, indent=1, sort_keys=True)
            Path(__file__).with_name(name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
