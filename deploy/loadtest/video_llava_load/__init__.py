"""Load on a server of Video-LLaVA: arrivals, a mix of requests, and the figures that AIPerf reports.

scenario.py       phases, mix of requests, objectives, out of a TOML file
plan.py           what the next caller asks, drawn by seed
media.py          pixels for it, made in memory
requests.py       one caller's requests, sent and timed by the asyncio client
event_loop.py     that client's event loop, on a thread beside Locust's greenlets
users.py, load.py Locust's users, and one run of its runner, statistics and web page
metrics.py        records become figures
saturation.py     the highest arrival rate that meets an objective
counters.py       the server's own counters
report.py         all that as JSON, tables and an HTML page
perf_analyzer.py  input data and a command line for Triton's own load generator
"""
