"""Measurements that a cheat does not pass: drawn X-rays and written reports."""
