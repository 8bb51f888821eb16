"""ContainerPilot 3.8 as it was measured: the schema of its file, and a driver that runs one as it does."""
