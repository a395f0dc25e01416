"""The parts of the fuzzer: productions that grow random graphs, the judge, the shrinker."""
