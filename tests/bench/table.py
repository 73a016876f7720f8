"""The report as text, its tables as Markdown."""

from rich import box
from rich.console import Console
from rich.table import Table

from .arithmetic import encoder_flops, prefill_flops
from .report import Figures, Report
from .shapes import VIDEO_TOKENS

NAMES = {
    "hf_one_by_one": "model.generate",
    "hf_batched": "model.generate, batched",
    "in_process": "engine in process",
    "in_process_int8": "engine in process, int8",
    "triton": "this server",
    "triton_int8": "this server, int8",
    "vllm_serve": "vllm serve",
}
WORKLOADS = {"unique": "unique videos", "eight": "8 questions a video", "text": "text only"}

SHARES = {
    "encoder": "encoder, of the fp32 products",
    "encoder_wide": "encoder of the 7B's width, of the fp32 products",
    "prefill": "prefill, of the bf16 products",
    "decode": "decode of one sequence, of reading memory",
}
STAGES = {
    "encoder": "encoder, a video",
    "encoder_wide": "two layers of the 7B's tower and its projector, a video, fp32",
    "encoder_wide_int8": "the same, int8",
    "handover_cold": "from intake to the engine, on a server, features of the 7B's size: new video, those layers too",
    "handover_warm": "the same, a known video: all but the encoder",
    "handover_copy": "one copy of the features, 16.8 MB in float16",
    "handover_store": "a new video: copy, check and digest by the feature store",
    "handover_read": "a new video: read and cast to bfloat16 by the engine",
    "handover_engine_queue": "waiting there for a place in the batch",
    "handover_first_token": "from sending to the first text, a known video (engine: one layer)",
}
BUSY_SHARE = 0.1


def print_report(report: Report, console: Console) -> None:
    """The machine, the figures, the shares, the promises."""
    _print_machine(report, console)
    for workload, title in WORKLOADS.items():
        console.print(_figures_table(title, [row for row in report.figures if row.workload == workload]))
    _print_stages(report, console)
    console.print(_promises_table(report))
    busiest = max(row.others_share for row in report.figures)
    if busiest > BUSY_SHARE:
        console.print(
            f"Other processes used up to {busiest:.0%} of a processor meanwhile: measure again on a quiet machine"
        )


def _print_machine(report: Report, console: Console) -> None:
    machine = report.machine
    console.print(
        f"{machine['num_processors']} processors, {machine['memory_bytes'] / 1e9:.0f} GB, load average "
        f"{machine['load_average']:.1f} before; at best {machine['gemm_fp32'] / 1e9:.0f} GFLOP/s in fp32 "
        f"({machine['gemm_fp32_wide'] / 1e9:.0f} at the 7B's widths), {machine['gemm_bf16'] / 1e9:.0f} in bf16, "
        f"{machine['memory_bandwidth'] / 1e9:.1f} GB/s read"
    )
    console.print(
        f"a video: {encoder_flops(report.shape) / 1e12:.3f} TFLOP in the encoder, "
        f"{prefill_flops(report.shape, num_positions=VIDEO_TOKENS) / 1e12:.2f} in the prefill of its {VIDEO_TOKENS} "
        "positions"
    )
    for result in {each.contestant: each for each in report.results}.values():  # of the last round
        steps = "".join(f", {name} {seconds:.0f} s" for name, seconds in result.start_steps.items())
        console.print(f"{NAMES[result.contestant]}: {result.setting}; ready after {result.start_seconds:.1f} s{steps}")


def _figures_table(title: str, rows: list[Figures]) -> Table:
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column("")
    for name in (
        "at a time",
        "positions",
        "TTFT s",
        "ITL ms",
        "requests/s",
        "each round",
        "tokens/s",
        "CPU s",
        "client",
        "peak GB",
        "others",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            NAMES[row.contestant],
            str(row.concurrency),
            str(row.num_positions),
            f"{row.first_token_seconds:.3f}",
            f"{1e3 * row.inter_token_seconds:.1f}",
            f"{row.requests_per_second:.3f}",
            ", ".join(f"{each:.3f}" for each in row.rounds_requests_per_second),
            f"{row.tokens_per_second:.1f}",
            f"{row.cpu_seconds_per_request:.2f}",
            f"{row.client_cpu_seconds_per_request:.2f}",
            f"{row.peak_bytes / 1e9:.2f}",
            f"{row.others_share:.0%}",
        )
    return table


def _print_stages(report: Report, console: Console) -> None:
    for name, share in report.shares().items():
        console.print(f"{share:>9.0%}  {SHARES[name]}")
    for name, seconds in report.stages.items():
        console.print(f"{1e3 * seconds:>9.1f} ms  {STAGES[name]}")


def _promises_table(report: Report) -> Table:
    table = Table(title="promised", title_justify="left", box=box.MARKDOWN)
    table.add_column("")
    for name in ("measured", "limit", ""):
        table.add_column(name, justify="right")
    for promise in report.promises():
        table.add_row(
            promise.text,
            f"{promise.measured:.2f} {promise.unit}",
            f"{'≥' if promise.at_least else '≤'} {promise.limit:g} {promise.unit}",
            "met" if promise.is_kept else "not met",
        )
    return table
