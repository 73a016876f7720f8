"""The committed configurations parse, agree with each other, and hold on the oldest server that they are for.

The schema is that of the installed tritonclient, 2.73. It is the same from Triton 26.04 (2.68) on, so it is that of
the GPU image's 26.07 (2.71).
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from video_llava_client import tensors as client_tensors
from video_llava_export.profiles import MAX_REQUESTS
from video_llava_server.admission import DEFAULT_MAX_REQUESTS
from video_llava_server.errors import RequestError
from video_llava_server.gate import _PLACES_PER_PROBE
from video_llava_server.tensors import FEATURES, FLAGS, FRAMES, OUTPUTS, RETURN_FLAGS

model_config_pb2: Any = import_module("tritonclient.grpc.model_config_pb2")  # generated, without types

REPOSITORY = Path(__file__).parents[3] / "model_repository"
MODELS = sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt"))
# What their ONNX graphs declare, since the encoders' configurations leave it to auto-complete.
GRAPH_TENSORS = {"frames": model_config_pb2.TYPE_UINT8, "features": model_config_pb2.TYPE_FP32}
ENCODERS = {"video_encoder", "image_encoder"}
CACHED = {"video_features", "image_features"}
ENSEMBLES = {"video_llava", *CACHED}


def config(name: str, file: str = "config.pbtxt") -> Any:
    text = (REPOSITORY / name / file).read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def tensors(name: str, side: str) -> dict[str, int]:
    """Return the model's inputs or outputs with their types."""
    if name in ENCODERS:
        return {key: GRAPH_TENSORS[key] for key in (["frames"] if side == "input" else ["features"])}
    return {tensor.name: tensor.data_type for tensor in getattr(config(name), side)}


def optional(name: str) -> set[str]:
    return {tensor.name for tensor in config(name).input if tensor.optional}


def test_the_repository_holds_these_models():
    assert set(MODELS) == {"intake", "feature_store", "relay", "vicuna", *ENCODERS, *ENSEMBLES}


@pytest.mark.parametrize("name", MODELS)
def test_the_name_is_the_folders(name):
    assert config(name).name == name


@pytest.mark.parametrize(
    ("name", "step"),
    [(name, step) for name in sorted(ENSEMBLES) for step in config(name).ensemble_scheduling.step],
    ids=lambda value: getattr(value, "model_name", value),
)
def test_each_steps_tensors_are_the_models_own_and_agree_in_type(name, step):
    ensemble = config(name)
    steps = ensemble.ensemble_scheduling.step
    types = {tensor.name: tensor.data_type for tensor in ensemble.input}
    for other in steps:
        types |= {value: tensors(other.model_name, "output")[key] for key, value in other.output_map.items()}
    inputs = tensors(step.model_name, "input")
    assert {key: types[value] for key, value in step.input_map.items()} == {key: inputs[key] for key in step.input_map}
    assert set(inputs) - optional(step.model_name) <= set(step.input_map)


def test_every_output_of_the_ensemble_is_made_by_its_last_step_with_the_same_type():
    ensemble = config("video_llava")
    relay = ensemble.ensemble_scheduling.step[-1]
    assert relay.model_name == "relay"
    made = {value: tensors("relay", "output")[key] for key, value in relay.output_map.items()}
    assert made == tensors("video_llava", "output")


def test_an_optional_input_of_the_ensemble_is_optional_where_it_goes():
    ensemble = config("video_llava")
    for step in ensemble.ensemble_scheduling.step:
        taken = {key for key, value in step.input_map.items() if value in optional("video_llava")}
        assert taken <= optional(step.model_name)


def test_the_relay_keeps_order_and_the_language_model_is_decoupled():
    relay = config("relay")
    assert [(group.kind, group.count) for group in relay.instance_group] == [
        (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)
    ]
    assert not relay.HasField("dynamic_batching")
    vicuna = config("vicuna")
    assert vicuna.model_transaction_policy.decoupled
    assert vicuna.max_batch_size == 0


def test_an_ensemble_caches_what_an_encoder_makes():
    """Triton keeps errors too, as answers without features, if a model has a response cache of its own."""
    assert {name for name in MODELS if config(name).response_cache.enable} == CACHED
    for name in CACHED:
        encoder, store = config(name).ensemble_scheduling.step
        assert (encoder.model_name, store.model_name) == (name.replace("features", "encoder"), "feature_store")
        made = {value: tensors(store.model_name, "output")[key] for key, value in store.output_map.items()}
        assert made == tensors(name, "output")


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_the_encoders_batch(name):
    encoder = config(name)
    assert encoder.backend == "onnxruntime"
    assert encoder.HasField("dynamic_batching")
    assert encoder.max_batch_size == 8


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_on_a_gpu_an_encoder_differs_only_where_it_must(name):
    plain, gpu = config(name), config(name, "configs/gpu.pbtxt")
    (group,) = gpu.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, 1, [0])
    # Read by the ONNX Runtime backend (src/onnxruntime.cc of 26.06); it ignores names that it does not know.
    options = {key: value.string_value for key, value in gpu.parameters.items()}
    assert options == {"cudnn_conv_algo_search": "1", "enable_mem_pattern": "0"}
    queue = gpu.dynamic_batching.default_queue_policy
    most = max(MAX_REQUESTS, DEFAULT_MAX_REQUESTS)
    assert queue.max_queue_size > most + most // _PLACES_PER_PROBE
    queue.ClearField("max_queue_size")
    assert queue == model_config_pb2.ModelQueuePolicy()
    gpu.dynamic_batching.ClearField("default_queue_policy")
    for each in (plain, gpu):
        each.ClearField("instance_group")
        each.ClearField("parameters")
    assert gpu == plain


def test_only_encoders_have_variants():
    """`gpu` is the GPU image's default, `tensorrt` that of --plans (tests/deploy/tensorrt compares it with `gpu`)."""
    made = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("*/configs/*")}
    assert made == {f"{name}/configs/{variant}.pbtxt" for name in ENCODERS for variant in ("gpu", "tensorrt")}


@pytest.mark.parametrize("name", MODELS)
def test_no_field_that_triton_24_10_refuses_or_hangs_by(name):
    text = (REPOSITORY / name / "config.pbtxt").read_text(encoding="utf-8")
    for field in ("max_inflight_requests", "model_metrics", "max_queue_size"):
        assert field not in text


def listed(name: str, side: str) -> dict[str, str]:
    return {key: model_config_pb2.DataType.Name(value) for key, value in tensors(name, side).items()}


def test_the_configurations_list_the_tensors_of_the_code():
    asked = dict.fromkeys((*FLAGS, *RETURN_FLAGS), "TYPE_BOOL")
    texts = dict.fromkeys(("text_input", "sampling_parameters"), "TYPE_STRING")
    ensemble = texts | asked | dict.fromkeys(FRAMES, "TYPE_UINT8")
    assert listed("video_llava", "input") == ensemble
    assert listed("video_llava", "output") == listed("relay", "output") == OUTPUTS
    features = dict.fromkeys(FEATURES, "TYPE_STRING")
    inner = {"ticket": "TYPE_STRING", "stop": "TYPE_STRING"}
    assert listed("vicuna", "input") == texts | asked | features | inner
    relayed = dict(OUTPUTS) | {"generation_id": "TYPE_STRING", "error": "TYPE_STRING"}
    assert listed("vicuna", "output") == listed("relay", "input") == relayed


def test_the_clients_table_is_the_ensembles():
    for side, specs in (("input", client_tensors.INPUTS), ("output", client_tensors.OUTPUTS)):
        assert listed("video_llava", side) == {spec.name: spec.config_dtype for spec in specs}
        dims = {tensor.name: tuple(tensor.dims) for tensor in getattr(config("video_llava"), side)}
        assert dims == {spec.name: spec.dims for spec in specs}


def table(start: str) -> list[list[str]]:
    """Return the rows of the README's table whose header begins with `start`, without back quotes."""
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"| {start}")) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" `") for cell in line.strip("|").split("|")])
    return rows


def test_the_readme_lists_the_tensors_and_errors_of_the_code():
    assert {row[0]: f"TYPE_{row[1].split()[0]}" for row in table("output")} == OUTPUTS
    assert {row[0] for row in table("input")} >= {"text_input", "sampling_parameters", *FRAMES, *FLAGS}
    errors = {kind.code: kind.triton_code for kind in RequestError.__subclasses__()}
    assert {row[0]: row[2] for row in table("code")} == errors
    steps = {name for row in table("step") for name in row[1].replace("`", "").split(", ")}
    assert steps == set(MODELS)


def test_the_ensemble_lets_intake_say_what_is_missing():
    """Triton counts inputs instead of names: a required one that is missing would end the request without a word."""
    assert optional("video_llava") == set(tensors("video_llava", "input"))
    assert optional("intake") == set(tensors("intake", "input"))
