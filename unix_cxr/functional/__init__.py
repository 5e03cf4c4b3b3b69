"""Pure functions of tensors: flow, guidance, masks, positions, patches, images."""
