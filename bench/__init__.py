"""Load for a gateway, and what it takes to bear it (docs/bench.md)."""
