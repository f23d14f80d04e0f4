"""The report of a training: one HTML page for people."""

from pipelines.training.report.page import Report, render

__all__ = ["Report", "render"]
