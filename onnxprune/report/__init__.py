"""JSON from results; the keys are a contract, documented in the README."""
