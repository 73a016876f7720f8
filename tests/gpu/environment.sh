# Sourced by both parts, with the folder for the results as its argument. Needs sha256sum and tar.
# KIT: where the files are unpacked. MODELS: in memory, 30 GB. PYTHON: the machine's, which has PyTorch.
export KIT=${KIT:-/tmp/video-llava-gpu} MODELS=${MODELS:-/dev/shm/video-llava-gpu} PYTHON=${PYTHON:-python3}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1" "$KIT/results" "$KIT/cache" "$MODELS"
RESULTS=$(cd "$1" && pwd)
(cd "$HERE" && sha256sum --check --quiet SHA256SUMS) || exit 1
"$PYTHON" -W ignore -m tarfile --extract "$HERE/files.tar.xz" "$KIT"
cd "$KIT"
source=$KIT/source
export PYTHONPATH=$KIT/site:$source/client:$source/export:$source/deploy/local:$source/deploy/server:$source/tests
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export VLLM_CACHE_ROOT=$KIT/cache/vllm TRITON_CACHE_DIR=$KIT/cache/triton TORCHINDUCTOR_CACHE_DIR=$KIT/cache/inductor
# Left out of the kit, for its size: FlashInfer, DeepGEMM, and all attention of ONNX Runtime but one.
export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_USE_DEEP_GEMM=0 ORT_DISABLE_MEMORY_EFFICIENT_ATTENTION=1
# There may be no network but the machine's own.
export VLLM_HOST_IP=127.0.0.1 GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo

# step SECONDS NAME [ARGUMENT]: what fails or takes longer does not stop the rest. PATIENCE multiplies the limits.
step() {
    local limit=$(($1 * ${PATIENCE:-1})) begin=$SECONDS code=0 name
    shift
    name=$(IFS=-; echo "$*")
    "$PYTHON" -m gpu.limited "$limit" "$PYTHON" -m gpu.step "$@" > "$KIT/results/$name.log" 2>&1 || code=$?
    echo "$name: exit code $code after $((SECONDS - begin)) s" | tee -a "$KIT/results/steps.txt"
}

# Measurements have the machine to themselves. A dry run measures nothing.
alone() { [ -n "${DRY:-}" ] || wait; }

# Until what the last step had is free. A GPU without work has some 500 MiB taken.
free_card() {
    local used
    for _ in {1..20}; do
        used=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2> /dev/null)
        [ "${used:-0}" -lt 2000 ] && return
        sleep 1
    done
    echo "$used MiB of the GPU are still taken"
}

# Everything so far, as one file: a later step may be the last.
save() { tar -C "$KIT/results" -czf "$RESULTS/$1.tgz" .; }
