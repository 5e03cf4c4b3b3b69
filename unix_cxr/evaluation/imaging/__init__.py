"""Metrics of drawn X-rays."""
