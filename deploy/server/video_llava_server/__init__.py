"""What runs inside Triton: the models' code, and how a model folder becomes what Triton loads."""
