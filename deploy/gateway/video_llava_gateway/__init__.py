"""An OpenAI-style HTTP API before Triton: no model, no GPU, no torch.

A request's way: `connections`, `middleware` (key, log, metrics), `chat`, `protocol` (its fields), `exchange`,
`conversation` (its prompt), `media` (frames), `generation` (Triton, by video_llava_client), `completion` (the answer).
"""
