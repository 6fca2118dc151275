# What can be done with a checkout. `make` alone lists it.

VENV := .venv/bin
WORKERS := auto
PYTEST := $(VENV)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal
PURE := not (kernel or e2e or attack or fault or vm)

.DEFAULT_GOAL := help
.PHONY: help quickstart test check test-kernel test-vm bench bench-images docs schemas clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: ## install vsprov into .venv and start the first servers (root)
	@scripts/prepare run
	@$(VENV)/vsprov apply -y manifests/examples/quickstart.yaml
	@$(VENV)/vsprov get servers

test: ## install what the tests need, and run every one of them (root; without it the pure ones)
	@scripts/prepare test
	@$(PYTEST)

check: ## ruff, mypy, import rules and all tests that need no root: seconds
	@scripts/prepare check
	@$(PYTEST) -m "$(PURE)"

test-kernel: ## the tests on the kernel of this machine (root)
	@scripts/prepare test
	@$(PYTEST) -m "kernel or e2e or attack or fault"

test-vm: ## the kernel tests on a kernel with pure cgroup v2, in an emulator: minutes (root)
	@scripts/prepare test
	@$(PYTEST) -m vm

bench: ## up, again, change, down with 1 to 1000 servers, beside the floor and every peer installed here (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.run $(BENCH)

bench-images: ## images: pulled beside every peer installed here, started beside 99 others, shared in memory (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.images --disk 12 $(BENCH)

docs: schemas ## the manifest reference in docs/, from the schemas
	@$(VENV)/python -m vsprov.manifest.reference docs/reference/manifest.md

schemas: ## the JSON Schemas in schemas/, from the model
	@scripts/prepare check
	@$(VENV)/python -m vsprov.manifest.schema schemas/

clean: ## remove what the other targets made in this folder (servers stay: vsprov destroy --all)
	@rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find vsprov tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
