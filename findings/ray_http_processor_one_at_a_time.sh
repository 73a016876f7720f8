#!/bin/bash
# Ray Data's HTTP processor (Ray 2.60) sends the requests of a batch one after another.
#
# Expected: as its code says, all requests of a batch are sent, then the answers are received.
# Real:     aiohttp's `session.post()` begins when it is awaited, so one request of a batch is in flight.
# So what:  in flight are as many requests as there are batches at a time: four for each of `concurrency` actors, whatever
#           `batch_size` is. With batch_size=64 a row waits for 63 others; batch_size=1 costs nothing.
#
# Prints what it saw; exit code 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet "ray[data]==2.60.0" aiohttp==3.14.5 pydantic==2.14.4
"$folder/bin/python" - <<'END'
import asyncio

from aiohttp import web
from ray.llm._internal.batch.stages.http_request_stage import HttpRequestUDF

now, most = 0, 0


async def answer(_request):
    global now, most
    now += 1
    most = max(most, now)
    await asyncio.sleep(0.05)
    now -= 1
    return web.json_response({"ok": True})


async def main():
    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    stage = HttpRequestUDF("__data", ["payload"], f"http://127.0.0.1:{port}/")
    batch = [{stage.IDX_IN_BATCH_COLUMN: number, "payload": {}} for number in range(8)]
    answers = [row async for row in stage.udf(batch)]
    await runner.cleanup()
    return len(answers)


print(f"{asyncio.run(main())} answers, at most {most} request in flight")
assert most == 1
END
