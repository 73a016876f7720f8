"""The language model's configuration with other parameters."""

from pathlib import Path

_CONFIG = Path(__file__).parents[2] / "model_repository" / "vicuna" / "config.pbtxt"


def vicuna_config(**parameters: float) -> str:
    """Return the text of vicuna/config.pbtxt with these values of its `parameters`."""
    config = _CONFIG.read_text(encoding="utf-8")
    for name, value in parameters.items():
        before, key, after = config.partition(f'key: "{name}"')
        assert key, f"no parameter {name}"
        config = f'{before}{key}, value {{ string_value: "{value:.0f}" }} }}\n{after.partition(chr(10))[2]}'
    return config
