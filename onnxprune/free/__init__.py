"""Channels that cost nothing to remove: dead, constant and duplicate ones, found from the weights alone."""

from onnxprune.free.alike import make_alike
from onnxprune.free.compensation import fold_all, settle
from onnxprune.free.find import Found, FreeChannels, find_free

__all__ = ["Found", "FreeChannels", "find_free", "fold_all", "make_alike", "settle"]
