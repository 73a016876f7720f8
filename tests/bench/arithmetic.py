"""What a stage must compute and read, from the shape alone: floating-point operations and bytes."""

from .shapes import HEAD_WIDTH, NUM_FRAMES, PATCH_SIZE, TOKENS_PER_FRAME, VOCAB_SIZE, Shape

_BFLOAT16_BYTES = 2


def encoder_flops(shape: Shape, *, num_frames: int = NUM_FRAMES) -> int:
    """Of the patches, the layers up to the selected one (the last but one), and the projector."""
    tokens, width = num_frames * TOKENS_PER_FRAME, shape.tower_width
    layers = shape.tower_layers - 1
    patches = 2 * num_frames * (TOKENS_PER_FRAME - 1) * 3 * PATCH_SIZE**2 * width
    linear = 2 * tokens * 12 * width**2 * layers
    attention = 4 * tokens * TOKENS_PER_FRAME * width * layers
    projector = 2 * tokens * (width * shape.width + shape.width**2)
    return patches + linear + attention + projector


def prefill_flops(shape: Shape, *, num_positions: int) -> int:
    """Of a prompt with no position cached; attention looks at half of all pairs; the head at the last position only."""
    linear = 2 * num_positions * layer_weights(shape) * shape.layers
    attention = 2 * num_positions**2 * shape.width * shape.layers
    return linear + attention + 2 * shape.width * VOCAB_SIZE


def layer_weights(shape: Shape) -> int:
    """Weights of one layer of the language model."""
    kv_width = shape.kv_heads * HEAD_WIDTH
    return 2 * shape.width**2 + 2 * shape.width * kv_width + 3 * shape.width * shape.mlp_width


def decode_bytes(shape: Shape, *, num_positions: int) -> int:
    """What one token of one sequence reads in bfloat16: all weights once, and the keys and values so far."""
    weights = layer_weights(shape) * shape.layers + shape.width * VOCAB_SIZE
    cache = num_positions * shape.layers * 2 * shape.kv_heads * HEAD_WIDTH
    return _BFLOAT16_BYTES * (weights + cache)
