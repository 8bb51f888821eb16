"""Consul: sessions, locks, services, the cluster's record and the snapshot record."""
