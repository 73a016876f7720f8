"""Ask about each clip of a data set: `python ask.py s3://bucket/clips/ s3://bucket/captions/ triton:8001`."""

import sys

import ray  # pyright: ignore[reportMissingImports]
from video_llava_client.ray_data import AskVideoLlava, Columns, PartsSink


def main(source: str, out: str, url: str, num_actors: int = 2, rows_per_part: int = 200) -> None:
    """Ask of `num_actors` actors, and write a part for each `rows_per_part` rows."""
    columns = Columns(question="What happens?", id_column="key")
    # Ray writes the records of a block when all are there. Those that a lost node had not written are asked again.
    rows = ray.data.read_parquet(source).repartition(target_num_rows_per_block=rows_per_part)
    records = rows.map_batches(
        AskVideoLlava,
        fn_constructor_kwargs={"url": url, "columns": columns, "out": out, "ask": {"max_tokens": 64}},
        batch_format="pyarrow",
        batch_size=16,  # of one block four batches are asked at a time
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_cpus=1,  # for decoding
    )
    records.write_datasink(PartsSink(out))


if __name__ == "__main__":
    source, out, url = sys.argv[1:]
    main(source, out, url)
