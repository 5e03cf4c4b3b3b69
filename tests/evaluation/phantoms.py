"""Made-up X-rays: smooth structure that differs per patient, a bright patch for pneumonia."""

import torch

from unix_cxr.evaluation.classifier import ClassifierConfig
from unix_cxr.evaluation.copies import blur
from unix_cxr.evaluation.xrays import LabelledXrays

TINY = ClassifierConfig(input_size=32, widths=(8, 16), norm_groups=4)


def phantoms(count, prefix, seed=0, size=48):
    """`count` X-rays of as many patients, every second one with pneumonia."""
    generator = torch.Generator().manual_seed(1000 * seed + sum(map(ord, prefix)))
    rough = torch.randn(count, 1, size, size, generator=generator)
    images = 3 * blur(rough, 4.0) + 0.6 * blur(rough, 1.0) + 0.1 * rough
    pneumonia = torch.arange(count) % 2 == 1
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for number in pneumonia.nonzero().flatten().tolist():
        middle = (size * (0.35 + 0.3 * torch.rand(2, generator=generator))).tolist()
        far = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
        images[number, 0] += 3 * torch.exp(-far / (2 * (size / 12) ** 2))
    images = (0.4 + 0.12 * images).clamp(0, 1)
    return LabelledXrays(images, pneumonia, tuple(f"{prefix}{n}" for n in range(count)))
