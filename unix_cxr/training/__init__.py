"""Staged training: objectives, stages, one loop, checkpoints."""
