"""The page of a run: one HTML file that needs no other, and no network."""

from onnxprune.report.html.page import render_run_page

__all__ = ["render_run_page"]
