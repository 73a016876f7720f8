import os, time, math
print("main runs", __name__, flush=True)
from loky import get_reusable_executor
ex = get_reusable_executor(max_workers=2)
print(ex.submit(math.sqrt, 4.0).result())
a = ex.submit(time.sleep, 2); b = ex.submit(os._exit, 3)
for f in (b, a):
    try: print("loky:", f.result())
    except BaseException as e: print("loky failed:", type(e).__name__)
