"""`make bench`: this server beside what else could answer the same questions, in one run on one machine.

| | |
|---|---|
| `hugging_face` | the model card's way, `model.generate` one by one, and the same in batches |
| `in_process` | the server's own encoder and engine, called without Triton |
| `in_process_int8` | the same, its language model in int8 (W8A8) |
| `triton`, `triton_int8` | the server, through its client, with its language model in bfloat16 and in int8 |
| `vllm_serve` | vLLM's OpenAI server with the nearest model it has: LLaVA-1.5 of equal tower and language model |

In the order of the data: `checkpoints.py` makes the weights and their exports, `workloads.py` the questions, each
step runs in a process of its own (`step.py`), `load.py` and `usage.py` take time, CPU time and memory;
`machine.py` and `stages.py` measure what the machine could do and what single stages do; `report.py` makes the table.
"""
