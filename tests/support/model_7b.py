"""Sizes of Video-LLaVA-7B in 16 bits, encoders in float32."""

from video_llava_export.profiles import Demand

DEMAND = Demand(
    weight_bytes=13_477_000_000,
    encoder_bytes=2_600_000_000,
    kv_bytes_per_token=2 * 32 * 4096 * 2,
    embedding_bytes=4096 * 2,
    num_heads=32,
    video_tokens=2056,
    max_positions=4096,
)
