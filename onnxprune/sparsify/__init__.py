"""Fine-grained sparsity: zeros in the pattern that a consumer reads."""
