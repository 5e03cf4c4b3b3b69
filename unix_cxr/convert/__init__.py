"""Other releases to ours and back, and the proof that nothing changed on the way."""
