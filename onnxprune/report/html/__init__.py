"""The page of a run: one HTML file that needs no other, and no network."""

from onnxprune.report.html.page import page

__all__ = ["page"]
