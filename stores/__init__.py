"""Where conversations are kept: the ports (`stores.ports`, `stores.records`) and their adapters."""
