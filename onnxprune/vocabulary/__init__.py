"""Vocabulary pruning: the tokens that a corpus never uses, removed from embeddings and heads without loss."""

from onnxprune.vocabulary.ids import IdMap
from onnxprune.vocabulary.prune import VocabularyResult, prune_vocabulary

__all__ = ["IdMap", "VocabularyResult", "prune_vocabulary"]
