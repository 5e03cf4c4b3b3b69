"""Ready pipelines: text to X-ray, X-ray to report, and what turns both into tensors."""
