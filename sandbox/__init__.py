"""Real clusters as plain processes on this host: for the demo, the tests and people."""
