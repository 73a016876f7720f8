"""A tiny Video-LLaVA that is trained on drawn shapes, so that its answers can be judged."""
