"""Metrics of written reports."""
