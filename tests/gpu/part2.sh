#!/usr/bin/env bash
# Part 2: encoder, engine in process, this server, vllm serve. `bash 2/run.sh RESULTS` after part 1, about 8 minutes.
set -u
. "$(dirname "$0")/environment.sh" "$1"
if [ -d "$KIT/python" ]; then
    # Triton's Python backend needs NumPy 1 and a Python with a shared library. All else is the machine's own, but not
    # what is built for NumPy 2 and used wherever it is found.
    machine=$("$PYTHON" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
    {
        tr ':' '\n' <<< "$KIT/numpy:$KIT/onnxruntime:$KIT/triton:$PYTHONPATH:$machine"
        echo "import sys; sys.modules.update(dict.fromkeys('scipy numba pandas sklearn pyarrow jax cupy'.split()))"
    } > "$KIT/python/lib/python3.12/site-packages/kit.pth"
    unset PYTHONPATH
    export PYTHON=$KIT/python/bin/python3.12 PATH=$KIT/python/bin:$PATH
    libraries=$KIT/python/lib:$KIT/triton/nvidia_pytriton.libs:$machine/nvidia/cu13/lib:$machine/nvidia/cudnn/lib
    export LD_LIBRARY_PATH=$libraries:${LD_LIBRARY_PATH:-}
fi
# In all less than the 590 s that one call may take. The server starts on what in_process has compiled.
for one in ${STEPS:-encoder:40 in_process:170 server:185 vllm_serve:175}; do
    step "${one#*:}" "${one%:*}" &
    alone
    free_card
    save part2
done
wait
save part2
