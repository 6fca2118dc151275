# `make` without a target lists all targets.

# Without bytecode every command line of the tests would compile vsprov anew: half a second of CPU each.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv/bin
WORKERS := auto
PYTEST := $(VENV)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal
PURE := not (kernel or e2e or attack or fault or vm)

.DEFAULT_GOAL := help
.PHONY: help quickstart test check test-kernel test-vm test-long bench bench-disks bench-images bench-keeper bench-networks bench-snapshots bench-systems bench-transfer docs schemas clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: ## install vsprov into .venv and start the example servers (root)
	@scripts/prepare run
	@$(VENV)/vsprov apply -y manifests/examples/quickstart.yaml
	@$(VENV)/vsprov get servers

test: ## run the tests on the kernel of this machine (root; others run only tests that do not need it)
	@scripts/prepare test
	@$(PYTEST) -m "not vm"

check: ## run ruff, mypy, the import rules and the tests that do not need root, in about a minute
	@scripts/prepare check
	@$(PYTEST) -m "$(PURE)"

test-kernel: ## run only the tests that need root (root)
	@scripts/prepare test
	@$(PYTEST) -m "kernel or e2e or attack or fault"

test-vm: ## test pure cgroup v2, a reboot and power failures in an emulated machine, in 15 minutes (root)
	@scripts/prepare test
	@$(VENV)/python -m pytest -m vm

test-long: ## like test, with many more examples and an interruption after every step; takes hours (root)
	@scripts/prepare test
	@VSPROV_LONG=1 $(PYTEST) -m "not vm"

bench: ## measure start, second apply, change and removal of servers, compared with installed peers (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.run $(BENCH)

bench-disks: ## measure disk limits: start of servers, and work with files in them (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.disks $(BENCH)

bench-images: ## measure pulling, starting and sharing images, compared with installed peers (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.images --disk 12 $(BENCH)

bench-keeper: ## measure the keeper with many servers, and how fast servers are started again (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.keeper $(BENCH)

bench-snapshots: ## measure snapshots by reflink and by copy, compared with cp and btrfs (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.snapshots $(BENCH)

bench-systems: ## measure how long a Debian takes to boot, compared with systemd-nspawn and lxc-start (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.systems $(BENCH)

bench-networks: ## measure servers on a bridge, and TCP between them and through published ports (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.networks $(BENCH)

bench-transfer: ## measure export and import of a server, compared with tar and zstd (root)
	@scripts/prepare test
	@$(VENV)/python -m benchmarks.transfer $(BENCH)

docs: schemas ## generate the manifest reference in docs/ from the schemas
	@$(VENV)/python -m vsprov.manifest.reference docs/reference/manifest.md

schemas: ## generate the JSON Schemas in schemas/ from the model
	@scripts/prepare check
	@$(VENV)/python -m vsprov.manifest.schema schemas/

clean: ## remove generated files; servers are kept (to remove them: vsprov destroy --all)
	@rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find vsprov tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
