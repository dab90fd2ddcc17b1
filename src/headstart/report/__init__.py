"""Pages and plots, made from run directories alone: no torch, no images, no network."""

from headstart.report.page import write_report

__all__ = ["write_report"]
