"""Building blocks, one idea each: joint block, latent embedding, time embedding, connector."""
