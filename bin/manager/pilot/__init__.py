"""The second pilot: a Consul agent runs the hooks, supervisord runs the agent and mysqld (SPEC 8)."""
