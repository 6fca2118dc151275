# What can be done with a checkout. `make` alone lists it.

VENV := .venv/bin
WORKERS := auto
PYTEST := $(VENV)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal
PURE := not (kernel or e2e or attack or fault or vm)

.DEFAULT_GOAL := help
.PHONY: help quickstart test check test-kernel test-vm test-long bench bench-images docs schemas clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: ## install vsprov into .venv and start the first servers (root)
	@scripts/prepare run
	@$(VENV)/vsprov apply -y manifests/examples/quickstart.yaml
	@$(VENV)/vsprov get servers

test: ## install what the tests need, and run them on this machine's kernel (root; without it the pure ones)
	@scripts/prepare test
	@$(PYTEST) -m "not vm"

check: ## ruff, mypy, import rules and all tests that need no root: seconds
	@scripts/prepare check
	@$(PYTEST) -m "$(PURE)"

test-kernel: ## the tests on the kernel of this machine (root)
	@scripts/prepare test
	@$(PYTEST) -m "kernel or e2e or attack or fault"

test-vm: ## what differs on a kernel with pure cgroup v2, a reboot and power cuts, in an emulator (root)
	@scripts/prepare test
	@$(VENV)/python -m pytest -m vm

test-long: ## as test, but with many more examples and a death after every single step: hours (root)
	@scripts/prepare test
	@VSPROV_LONG=1 $(PYTEST) -m "not vm"

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
