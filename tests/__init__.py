"""Tests: parity with independent statements, properties, negatives, contracts."""
