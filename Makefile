# Two commands do all of their own set-up: `make demo` and `make test`.
# They need git, make and Python 3.11; what else a fresh Debian or Ubuntu lacks is installed if you are root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
READY := $(VENV)/.ready
LOCK := deploy/local/requirements.lock
GPU_LOCK := deploy/docker/requirements-gpu.lock

# uv reads its own settings, not pip's: hand over where the packages and torch's CPU build are found.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifeq ($(UV_FIND_LINKS),)
TORCH := --torch-backend=cpu
endif

.PHONY: help demo check unit-torch unit-other test on-one-server on-others bench bench-batch bench-decode bench-gateway bench-saturate bench-path gpu-kit gpu-report fuzz-media fuzz-requests exact-batch ray-batch soak image-test lint format lock clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: $(READY) ## export a tiny checkpoint, start Triton, ask about clips
	$(BIN)/python deploy/local/demo.py

check: $(READY) ## lint, types and unit tests (3 minutes on two cores)
	$(MAKE) --no-print-directory --jobs --output-sync lint unit-torch unit-other

# Apart from the others, since torch and vLLM take as long to import as these tests to run.
TORCH_TESTS := tests/client/test_pixels.py tests/deploy/server tests/export tests/tiny
UNIT := $(BIN)/pytest -m "not server and not cluster"

unit-torch: $(READY)
	OMP_NUM_THREADS=1 $(UNIT) $(TORCH_TESTS)

unit-other: $(READY)
	$(UNIT) --numprocesses 2 --dist loadfile $(addprefix --ignore=,$(TORCH_TESTS) tests/server)

test: check ## the same, then the tests on real servers (15 minutes on two cores)
	$(MAKE) --no-print-directory --jobs --output-sync on-one-server on-others

# Most of their time is waiting: for an engine's start, and for answers that are slow on purpose.
SERVERS := $(BIN)/pytest -m "server or cluster" --durations=10

on-one-server: $(READY)
	$(SERVERS) tests/gpu tests/deploy tests/server --ignore=tests/server/small --ignore=tests/server/cluster

on-others: $(READY)
	$(SERVERS) tests/server/small tests/server/cluster

bench: $(READY) ## this server beside model.generate and vllm serve, with a report (20 quiet minutes; BENCH=--quick tries it)
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH)

bench-path: $(READY) ## what the way through Triton carries, with an engine that costs nothing (2 minutes; BENCH="--baseline DIR" compares)
	PYTHONPATH=tests $(BIN)/python -m bench.path $(BENCH)

bench-gateway: $(READY) ## what the OpenAI-style gateway costs beside the gRPC client (6 minutes; BENCH="--only ttft" is one step)
	PYTHONPATH=tests $(BIN)/python -m bench.gateway $(BENCH)

bench-batch: $(READY) ## whether a batch keeps a server busy, and what callers beside it notice (15 minutes; BENCH="--only beside" is one step)
	PYTHONPATH=tests $(BIN)/python -m bench.keep_busy $(BENCH)

SATURATE := build/bench/saturate/.venv
bench-saturate: $(READY) ## a batch beside saturate, which sends whole files to the gateway (8 minutes; BENCH="--clips 60 --rounds 1" tries it)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(SATURATE)
	$(UV) pip install --quiet --python $(SATURATE)/bin/python saturate==0.1.1
	PYTHONPATH=tests $(BIN)/python -m bench.saturate $(BENCH)

PYTHON312 ?= python3.12
gpu-kit: $(READY) ## pack what a machine with one GPU and no network lacks, to measure there (tests/gpu; 10 minutes, needs Python 3.12)
	PYTHONPATH=tests $(BIN)/python -m gpu.kit --pip .uv/bin/pip --python $(PYTHON312)

gpu-report: $(READY) ## draw the report of what came back: `make gpu-report RESULTS="part1.tgz part2.tgz"`
	@PYTHONPATH=tests $(BIN)/python -m gpu.report $(RESULTS)

bench-decode: $(READY) ## time the client's decoding against the model card's way, decord and OpenCV (makes 400 MB of video)
	$(BIN)/python tests/client/bench_decode.py

fuzz-media: $(READY) ## decode 10,000 damaged media files in the client's decoding processes (about 10 minutes)
	$(BIN)/python tests/client/fuzz_media.py

fuzz-requests: $(READY) ## 100,000 odd requests to the parser, 400 odd sampling parameters to an engine (8 minutes and one)
	$(BIN)/python tests/deploy/server/fuzz_requests.py
	$(BIN)/python tests/server/fuzz_engine.py

exact-batch: $(READY) ## 2,000 rows over four shards while workers, servers and storage are killed, or `make exact-batch ROWS=20000`
	$(BIN)/python tests/server/exact_batch.py --rows $(or $(ROWS),2000)

# In an environment of its own: Ray's pandas needs NumPy 2. pyproject's overrides are for the server.
RAY := build/ray/bin
ray-batch: $(READY) ## 1,200 rows by Ray Data on two nodes, one of which is killed, or `make ray-batch ROWS=6000` (5 minutes)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) build/ray
	$(UV) pip install --quiet --no-config --python $(RAY)/python "ray[data]==2.60.0" aiohttp psutil --editable ".[data,gateway]"
	# Ray starts its processes by fork, beside gRPC's threads of the fake servers.
	GRPC_ENABLE_FORK_SUPPORT=0 $(RAY)/python tests/client/ray_batch.py --rows $(or $(ROWS),1200)

soak: $(READY) ## mixed load on a real server for 10 minutes, or `make soak SECONDS=60`
	$(BIN)/python tests/server/soak.py --seconds $(or $(SECONDS),600)

image-test: $(READY) ## build, break, upgrade the image for CPUs in containers, and the gateway's (15 minutes, as root; BASE=IMAGE: on another base)
	BASE=$(BASE) $(BIN)/pytest -svx tests/image/rehearsal.py tests/image/gateway.py

lint: $(READY) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error

format: $(READY) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): $(LOCK) pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python $(TORCH) $(LOCK)
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

$(UV):
	$(PYTHON) deploy/local/system_packages.py
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv==0.13.9

client/video_llava_client/inference.binpb: client/examples/plain_grpc/inference.proto | $(READY)
	$(BIN)/python -m grpc_tools.protoc --proto_path=$(<D) --descriptor_set_out=$@ $(<F)
	@# The file alone, not the set that protoc puts it in: a set needs descriptor_pb2, a third of protobuf's import.
	$(BIN)/python -c "import pathlib, google.protobuf.descriptor_pb2 as p; f = pathlib.Path('$@'); \
	  f.write_bytes(p.FileDescriptorSet.FromString(f.read_bytes()).file[0].SerializeToString())"

lock: | $(UV) ## pin every package anew, without addresses
	$(UV) pip compile --quiet --python-version 3.11 $(TORCH) --all-extras --group dev --group bench --no-annotate --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" --output-file $(LOCK) pyproject.toml
	@# For Triton's image: CUDA's torch, from the index alone; none of pyproject's overrides, which the CPU needs.
	UV_FIND_LINKS= $(UV) pip compile --quiet --no-config --python-version 3.12 --python-platform x86_64-manylinux_2_39 \
	  --only-binary :all: --extra export --no-annotate --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file $(GPU_LOCK) pyproject.toml $(GPU_LOCK:.lock=.in)

clean: ## remove what make built
	rm -rf $(VENV) .uv build
