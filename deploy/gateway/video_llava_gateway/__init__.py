"""An OpenAI-style HTTP door before Triton: no model, no GPU, no torch.

A request's way: `connections` -> `door` (key, log, metrics) -> `chat` -> `protocol` (its fields) -> `conversation`
(prompt) -> `media` (frames) -> `generation` (Triton, by video_llava_client) -> `completion` (the answer's JSON).
"""
