"""The model: configuration, context, both branches, sampling, the autoencoder and the processor."""
