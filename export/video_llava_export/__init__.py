"""A Hugging Face Video-LLaVA checkpoint becomes the weights of a Triton model repository."""
