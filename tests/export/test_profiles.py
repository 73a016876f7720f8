import dataclasses

import pytest
from support.model_7b import DEMAND as FULL
from video_llava_export.errors import OptionError
from video_llava_export.exporter import ExportOptions, export
from video_llava_export.language_model import find_language_model
from video_llava_export.profiles import Demand, Hardware, fit
from video_llava_server.manifest import Manifest


def test_one_gpu_of_24_gb_holds_the_whole_context():
    profile = fit(Hardware.parse("24gb"), FULL)
    assert profile.arguments == {
        "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.72,
        "kv_cache_memory_bytes": 4587 * FULL.kv_bytes_per_token,
        "max_model_len": 4096,
        "max_num_batched_tokens": 4096,
    }
    assert any("1 prompts of full length" in sentence for sentence in profile.why)


def test_a_smaller_gpu_holds_a_shorter_context():
    profile = fit(Hardware.parse("23gb"), FULL)
    length = profile.arguments["max_model_len"]
    assert 2056 + 512 <= length < 4096


def test_what_is_left_of_a_gpu_holds_everything_else():
    for name in ("23gb", "24gb", "2x16gb", "80gb"):
        hardware = Hardware.parse(name)
        share = fit(hardware, FULL).arguments["gpu_memory_utilization"]
        assert hardware.gpu_bytes * (1 - share) >= FULL.encoder_bytes + 3.5e9


def test_what_vllm_takes_fits_into_its_share_in_whichever_order_the_models_load():
    for name, count in (("24gb", 1), ("2x16gb", 2), ("80gb", 1)):
        hardware = Hardware.parse(name)
        arguments = fit(hardware, FULL).arguments
        share = (arguments["gpu_memory_utilization"] + 0.01) * hardware.gpu_bytes
        assert arguments["kv_cache_memory_bytes"] + FULL.weight_bytes / count + 1.5e9 <= share


def test_an_h100_holds_what_was_measured_there():
    """It has 85.0 GB for torch. Beside two encoders in float16, 80.4 were free when vLLM started; beside weights and KV
    cache 8.4 were taken at most."""
    arguments = fit(Hardware.parse("85gb"), dataclasses.replace(FULL, encoder_bytes=1_300_000_000)).arguments
    assert arguments["gpu_memory_utilization"] * 85.0e9 < 80.4e9
    assert arguments["kv_cache_memory_bytes"] + FULL.weight_bytes + 8.4e9 <= 85.0e9 - 1e9


def test_an_fp8_cache_holds_twice_the_positions(editable):
    checkpoint = editable.open()
    model = find_language_model(checkpoint.tensors, checkpoint.config)
    full, half = (
        Demand.of(model, checkpoint.config, encoder_bytes=0, kv_cache_dtype=dtype).kv_bytes_per_token
        for dtype in ("auto", "fp8_e4m3")
    )
    assert half * 2 == full


@pytest.mark.parametrize(("profile", "precision"), [("24gb", "float16"), ("cpu", "float32")])
def test_encoders_compute_in_what_the_hardware_is_fast_in(run, small_checkpoint, tmp_path, profile, precision):
    code, _, err = run(small_checkpoint, "--into", tmp_path, "--id", "m", "--profile", profile)
    assert code == 0, err
    assert Manifest.read(tmp_path / "m").dtypes["video_encoder"] == precision


def test_a_step_reads_a_whole_video():
    for name in ("24gb", "2x24gb", "80gb"):
        assert fit(Hardware.parse(name), FULL).arguments["max_num_batched_tokens"] > FULL.video_tokens


def test_two_gpus_halve_the_weights():
    profile = fit(Hardware.parse("2x16gb"), FULL)
    assert (profile.arguments["tensor_parallel_size"], profile.arguments["max_model_len"]) == (2, 4096)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("16gb", r"weights of 13\.5 GB a GPU .* leave room for 0 positions, a video takes 2056 .* take more GPUs"),
        ("3x24gb", "32 heads cannot be split over 3 GPUs"),
        ("large", "--profile large is none; write cpu, or .*: 24gb, 2x24gb"),
        ("0x24gb", "is none"),
    ],
)
def test_hardware_that_cannot_hold_it_is_refused(name, message):
    with pytest.raises(OptionError, match=message):
        fit(Hardware.parse(name), FULL)


@pytest.mark.parametrize(("name", "max_requests"), [("24gb", 17), ("2x24gb", 228), ("80gb", 256), ("cpu", 14)])
def test_no_more_requests_are_taken_than_a_drain_has_time_for(name, max_requests):
    profile = fit(Hardware.parse(name), FULL)
    assert profile.max_requests == max_requests
    assert profile.why[-1].startswith(f"max_requests {max_requests}: ")


def test_cpu_gets_a_bounded_cache():
    arguments = fit(Hardware.parse("cpu"), FULL).arguments
    assert arguments["kv_cache_memory_bytes"] == 4 * 4096 * FULL.kv_bytes_per_token
    assert arguments["max_num_batched_tokens"] == 1024
    assert arguments["dtype"] == "bfloat16"


@pytest.mark.usefixtures("fast_graphs")
def test_profile_is_written_and_explained(editable, tmp_path):
    options = ExportOptions(hardware=Hardware.parse("24gb"), engine_arguments={"max_model_len": 1024, "seed": 7})
    manifest = Manifest.read(export(editable.open(), tmp_path, options=options).folder)
    arguments = manifest.engine_arguments
    assert (arguments["tensor_parallel_size"], arguments["max_model_len"], arguments["seed"]) == (1, 1024, 7)
    assert manifest.profile is not None
    assert (manifest.profile["name"], len(manifest.profile["why"])) == ("24gb", 5)


def test_bad_profile_is_one_line(run, small_checkpoint, tmp_path):
    code, _, err = run(small_checkpoint, "--into", tmp_path / "m", "--profile", "huge")
    assert code == 2
    assert err.startswith("video-llava-export: --profile huge is none")
