"""Snapshots (SPEC 3 and 6): taken with CLONE, kept in a store as a compressed archive with a manifest."""
