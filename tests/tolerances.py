"""Every tolerance of the tests of the model, with the error that was measured beside it.

The measured errors are largest absolute differences on a CPU in float32 unless the name says
otherwise; the limits leave room for other kernels and thread counts. `pytest tests --measured`
prints the errors of a run.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    limit: float
    measured: float


TOLERANCES = {
    # generate, held against the recorded logits of golden A and B
    "generate.recorded": Tolerance(2e-5, 1.2e-6),
    "generate.batch_equals_single": Tolerance(1e-5, 1.3e-6),
    "generate.step_equals_whole_forward": Tolerance(1e-5, 1.1e-6),
    "generate.beam_score": Tolerance(2e-5, 3.8e-6),
    # contexts
    "denoise.batch_equals_single": Tolerance(2e-5, 3.9e-6),
    "encode.split_equals_whole": Tolerance(1e-5, 2.9e-6),
    "reading.encode_equals_forward": Tolerance(1e-5, 0.0),
    # training
    "checkpointing.loss": Tolerance(0.0, 0.0),
    "checkpointing.gradient": Tolerance(1e-6, 0.0),
    "compile.weights": Tolerance(1e-6, 3.0e-8),
    "eager_equals_sdpa": Tolerance(1e-5, 1.3e-6),
    "gradient_scale.polynomial": Tolerance(1e-5, 4.5e-8),  # relative to the largest gradient
    # bfloat16, relative to the norm of the float32 result
    "bfloat16.velocity": Tolerance(0.05, 1.7e-2),
    "bfloat16.logits": Tolerance(0.05, 1.2e-2),
    # an adapter in the weights against the same adapter beside them
    "adapters.merged": Tolerance(2e-5, 3.8e-6),
    "parts.weights": Tolerance(1e-6, 3.0e-8),
    "parts.recipe": Tolerance(3e-5, 8.2e-6),
    "parts.losses": Tolerance(1e-6, 0.0),
    "contexts.alone_equals_batch": Tolerance(2e-5, 1.9e-6),
    "parts.joint_processes": Tolerance(3e-5, 1.5e-6),
    "sharded.weights": Tolerance(1e-4, 1.4e-5),
    "sharded.gradients": Tolerance(1e-6, 1.3e-7),
    "sharded.gradients_bfloat16": Tolerance(0.02, 4.8e-3),
    "sharded.checkpoint": Tolerance(1e-4, 2.3e-5),
    # a converted Janus against transformers' own, logits of size 8
    "janus.text": Tolerance(2e-5, 0.0),
    "janus.image_and_text": Tolerance(2e-5, 0.0),
    # resizing to a square, values in [0, 1]
    "resize.oracle": Tolerance(2e-5, 4.8e-6),
    "resize.float64": Tolerance(1e-12, 1.3e-14),
    "resize.pillow": Tolerance(2e-5, 4.9e-6),
    "resize.pillow_8_bits": Tolerance(1.05 / 255, 3.9e-3),  # Pillow rounds rows, then columns
    "resize.bfloat16": Tolerance(6e-3, 3.6e-3),  # half of its last place, twice
    "resize.float16": Tolerance(1e-3, 4.8e-4),
    "resize.strided": Tolerance(1e-6, 0.0),
    # blurring by products with matrices, values in [0, 1]
    "blur.convolution": Tolerance(3e-6, 3.0e-7),
    # phantoms, grey values in [0, 1] against the films that the oracle was trained on
    "phantom.films": Tolerance(2e-5, 1.3e-6),
}


MEASURED: dict[str, float] = {}
"""Largest error of this run by name; `pytest --measured` prints it."""


def _hold(name: str, error: float) -> None:
    MEASURED[name] = max(error, MEASURED.get(name, 0.0))
    assert error <= TOLERANCES[name].limit, f"{name}: error {error:.2e}, {TOLERANCES[name]}"


def assert_close(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Hold two tensors against each other by the table."""
    assert ours.shape == theirs.shape
    _hold(name, float((ours.detach().double() - theirs.detach().double()).abs().max()))


def assert_relative(name: str, ours: Tensor, theirs: Tensor) -> None:
    """The same for the norm of the difference, relative to the norm of `theirs`."""
    assert ours.shape == theirs.shape
    difference = (ours.detach().double() - theirs.detach().double()).norm()
    _hold(name, float(difference / theirs.detach().double().norm()))
