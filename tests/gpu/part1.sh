#!/usr/bin/env bash
# Part 1: facts, ways to run the engine, weights, ceilings, model.generate. `bash 1/run.sh RESULTS`, about 5 minutes.
set -u
. "$(dirname "$0")/environment.sh" "$1"
{
    nvidia-smi --query-gpu=name,memory.total,driver_version,power.limit --format=csv,noheader 2> /dev/null || echo "no GPU"
    echo "commit $(cat "$KIT/source/commit")"
    "$PYTHON" -c "import platform, torch; print('Python', platform.python_version(), 'PyTorch', torch.__version__)"
    echo "$(nproc) cores"
    free -g | head -n 2
    df -h "$KIT" "$MODELS"
    command -v gcc g++ nvcc
} > "$KIT/results/facts.txt" 2>&1
head -n 4 "$KIT/results/facts.txt"

# Once for all four of the smoke test.
"$PYTHON" -m compileall -q -j 0 site source > "$KIT/results/compileall.log" 2>&1 &
step 90 weights small
wait
[ -n "${DRY:-}" ] || step 200 weights full &
for variant in ${VARIANTS:-compiled compiled_v1 graphs eager}; do
    step 150 smoke "$variant" &
done
alone
save part1
step 60 ceilings &
alone
step 150 hugging_face &
wait
save part1
