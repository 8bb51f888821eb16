"""A server's content as statements: definitions, accounts, and rows that mydumper writes and myloader loads."""
