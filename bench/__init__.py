"""Measurements: write gaps of failovers beside those of Group Replication, and throughput."""
