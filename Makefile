# Everything runs in the sandbox's own Python environment, which packages.py makes once in a cache.
PYTHON ?= python3
# The interpreter of that environment; a shell expression that fails with packages.py's one line.
VENV = cache=$$($(PYTHON) sandbox/packages.py) && "$$cache/venv/bin/python"

.PHONY: demo demo-down test lint e2e

# A real cluster on this host: three nodes, a snapshot, a fourth node, a failover. Left running.
demo:
	@$(VENV) -m sandbox.demo

demo-down:
	@sandbox/ctl down

# --- Tests and checks -------------------------------------------------------------------------------

# --- Containers -------------------------------------------------------------------------------------
