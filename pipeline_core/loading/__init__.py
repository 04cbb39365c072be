"""Files to networks: readers, key maps, config schemas, device and dtype policy, conversion."""
