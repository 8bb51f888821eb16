"""A Docker engine, the images, and one compose project that all end-to-end tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from containers import engine, images
from sandbox.packages import PackagesError
from tests.e2e.compose import Project, say


@pytest.fixture(scope="session")
def base_images() -> Iterator[dict[str, str]]:
    """The images that ours are built on, and an engine that runs as long as the tests do."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run, too, cleans up
    try:
        with engine.running():
            yield images.ensure()
    except (engine.EngineError, images.ImageError, PackagesError) as error:
        pytest.fail(str(error), pytrace=False)


# Both, one after the other, unless one is asked for: make e2e PILOT=consul.
PILOTS = [os.environ["PILOT"]] if os.environ.get("PILOT") else ["consul", "containerpilot"]


@pytest.fixture(scope="session", params=PILOTS)
def project(
    request: pytest.FixtureRequest, base_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """The project with one pilot, built and not yet up; its containers, network and volumes are gone afterwards."""
    made = Project(directory=tmp_path_factory.mktemp("compose"), images=base_images, pilot=request.param)
    made.remove()  # whatever a run that was cut off has left
    say(f"building the image for the pilot {made.pilot}")
    made.build()
    try:
        yield made
    finally:
        if made.leftovers():
            made.keep_logs()
            say("removing containers, network and volumes")
            made.remove()
