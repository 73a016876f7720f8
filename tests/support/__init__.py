"""What the tests share: the reference model and a plain Triton client."""
