"""What answers the questions: each module's `run(checkpoints, plan)` returns results, in a process of its own."""
