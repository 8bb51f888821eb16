# Everything runs in the sandbox's own Python environment, which packages.py makes once in a cache.
PYTHON ?= python3
# The interpreter of that environment; a shell expression that fails with packages.py's one line.
VENV = cache=$$($(PYTHON) sandbox/packages.py) && "$$cache/venv/bin/python"

.PHONY: demo demo-down test test-failover test-long test-mysql upgrade features founding snapshot-kills snapshot-table lint lock e2e faults bench-failover bench-throughput bench-return bench-busy bench-containers bench-image bench-snapshot release

# A real cluster on this host: three nodes, a snapshot, a fourth node, a failover. Left running.
demo:
	@$(VENV) -m sandbox.demo

demo-down:
	@sandbox/ctl down

# --- Tests and checks -------------------------------------------------------------------------------

# One file stays in one process, since its tests share addresses. The longest files come first.
WORKERS = 3
PYTEST = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# AGAIN=1, as in CI: the files with tests that failed (status 1) are run once more, alone, since whole clusters on busy
# cores miss a deadline now and then; what fails twice has failed.
FAILED = $$($(PYTHON) -c 'import json; print(*{name.split("::")[0] for name in json.load(open(".pytest_cache/v/cache/lastfailed"))})')
tests = $(VENV) -m pytest $(1) $(2) $(ARGS) || { [ $$? = 1 ] && [ "$(AGAIN)" ] && $(VENV) -m pytest $(1) -n 0 $(FAILED) $(ARGS); }

# Unit tests, and integration tests against real servers on loopback. `make test ARGS=tests/unit` runs a part.
test:
	@$(call tests,$(PYTEST) -m "not failover and not servers and not upgrade and not long")

# Whole clusters in semisync, and the return of diverged nodes. More than two at once starve on two cores.
test-failover: WORKERS = 2
test-failover:
	@$(call tests,$(PYTEST) -m "failover and not long")

# What takes a minute and more by itself; not in CI.
test-long: WORKERS = 2
test-long:
	@$(call tests,$(PYTEST) -m long)

# What is tested against MySQL 5.6 and 9.7 above, against 5.7 and 8.0 as well; and a cluster of each of the four.
test-mysql:
	@$(call tests,$(PYTEST) -m servers)

# A cluster's way from 5.6 to 9.7 under four writers, every restore and switchover killed in its middle.
upgrade:
	@$(VENV) -m pytest -m upgrade -v -s -p no:xdist $(ARGS)

# Which feature was shown on which server: every test with a `feature` mark, on all four, into tests/features.json
# and from there into the README.
features:
	@$(VENV) -m pytest $(PYTEST) -m feature --features tests/features.json $(ARGS); code=$$?; \
		$(VENV) -m tests.features; exit $$code

# Five nodes that start at once on an empty Consul, RUNS times: each time exactly one becomes the primary.
RUNS = 10
founding:
	@export FOUNDING_RUNS=$(RUNS); $(VENV) -m pytest tests/integration/test_cluster_founding.py \
		-k five_nodes_at_once -v $(ARGS)

# A snapshot whose hook, engine, store or network dies, at POINTS points of its life, on each kind of store.
POINTS = 10
snapshot-kills:
	@export SNAPSHOT_KILLS=$(POINTS); $(VENV) -m pytest tests/integration/test_snapshot_kills.py \
		-k whatever_is_killed -v $(ARGS)

# A snapshot under four writers, and a node that begins with it: every server with every store.
snapshot-table:
	@export ROUND_TRIP_SERVERS="5.6 5.7 8.0 9.7" ROUND_TRIP_STORES="local s3 manta"; \
		$(VENV) -m pytest tests/integration/test_snapshot_round_trip.py -v $(ARGS)

lint:
	@$(VENV) -m ruff check . && $(VENV) -m ruff format --check . && $(VENV) -m mypy

# Pin what pyproject.toml asks for, with hashes: for the image, and with tests and sandbox.
LOCK = build/lock/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
	$(foreach package,$(LEFT_OUT),--unsafe-package $(package))
# What Manta's SDK asks for and bin/manager/storage/manta_key.py does without: an HTTP library with published
# vulnerabilities, at the one version that the SDK takes, and an SSH library. With this, the files go with --no-deps.
LEFT_OUT = httplib2 paramiko bcrypt invoke pynacl

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet pip-tools
	PIP_FIND_LINKS= $(LOCK) --output-file requirements.lock pyproject.toml
	PIP_FIND_LINKS= $(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	rm -r build/lock

# --- Faults -----------------------------------------------------------------------------------------

# Writers, a seeded schedule of faults, and a checker: docs/faults.md. A violation ends it with 1 (make: 2),
# and keeps history and logs in build/faults/SEED. `make faults SEED=7 MINUTES=5 FAULTS=node,partition`.
faults:
	@$(VENV) -m faults --seed "$(SEED)" --minutes "$(MINUTES)" --faults "$(FAULTS)" \
		--durability "$(DURABILITY)" --overlap "$(OVERLAP)" --keep "$(KEEP)" --mutant "$(MUTANT)"

# --- Measurements -----------------------------------------------------------------------------------

# Root only. How long nobody can write after each fault, beside Group Replication, into bench/results.
bench-failover:
	@$(VENV) -m bench.failover --runs "$(RUNS)"

# Eight writers on one node alone, async, and semisync with two replicas, into bench/results.
bench-throughput:
	@$(VENV) -m bench.throughput --runs "$(RUNS)"

# The primary's mysqld killed under eight writers: when it is a replica again, and by which way, into bench/results.
bench-return:
	@$(VENV) -m bench.returns --runs "$(RUNS)"

# Root only. Five runs of each fault to a container, beside the sandbox, into bench/results; PILOT=containerpilot.
bench-containers:
	@$(VENV) -m bench.containers --runs "$(RUNS)"

# A primary while all cores have other work (MINUTES=30), and then with all its connections taken.
bench-busy:
	@$(VENV) -m bench.busy --minutes "$(MINUTES)"

# The image's size, and one node in containers from `up` to a healthy primary (5 runs), into bench/results.
bench-image: RUNS = 5
bench-image:
	@$(VENV) -m bench.image --runs "$(RUNS)"

# GIB of data stored and restored, beside bare pipelines and the stores' own clients, into bench/results.
bench-snapshot: RUNS = 3
bench-snapshot:
	@export PYTHONPATH=bin; $(VENV) -m bench.snapshot --gib "$(GIB)" --runs "$(RUNS)"

# --- Containers -------------------------------------------------------------------------------------

# The nodes as containers, from `up` to `down`. Installs and starts Docker where there is none.
e2e:
	@$(call tests,-s,tests/e2e)

# Checks, builds and tags the image, and writes build/release/VERSION; publishes nothing. CONTRIBUTING.md.
release:
	@$(VENV) -m containers.release --version "$(VERSION)" --image "$(IMAGE)" --cached "$(CACHED)"
