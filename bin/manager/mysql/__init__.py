"""What the hooks know of a MySQL server: connections, state, operations, configuration, accounts."""
