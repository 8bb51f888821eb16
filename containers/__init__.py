"""What running the nodes as containers takes: a Docker engine and the images they are built on."""
