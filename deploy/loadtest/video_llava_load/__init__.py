"""Load for a server of Video-LLaVA: arrivals, a mix of requests, and the figures that AIPerf reports.

The journey of the data, module by module:

scenario.py    phases, mix of requests, objectives
scenario_file.py  out of a TOML file
plan.py        what the next caller asks, drawn by seed
media.py       pixels for it, made in memory in the size that the server says
requests.py    one caller's requests, sent and timed, by the asyncio client
portal.py      that client's event loop on a thread of its own, and the way to it from Locust
users.py       Locust's users: sources of arrivals (open loop), or callers that wait (closed loop)
load.py        one run: Locust's runner and web page around all of the above
metrics.py     records become figures
report.py      figures become a table and JSON
page.py        and a page with plots
saturation.py  the highest arrival rate at which an objective is met
counters.py    the server's own counters beside them
perf_analyzer.py  input data and a command line for Triton's own load generator
"""
