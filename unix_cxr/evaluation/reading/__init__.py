"""Metrics of what a model understands of X-rays."""
