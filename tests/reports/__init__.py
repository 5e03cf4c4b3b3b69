"""Tests of report cleaning."""
