"""Pure functions of tensors: flow, guidance, masks, positions, patches, images. No files, no state."""
