"""The return of a node that has diverged: its extra transactions are saved, then it is trimmed or rebuilt (SPEC 7)."""
