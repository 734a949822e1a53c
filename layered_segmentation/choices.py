"""The choices of settings and flags, each an enum; `config` has them all."""

import enum

from layered_segmentation.config_files import Choice


class SourceName(Choice):
    """Where photos come from: a directory, procedural scenes, or TensorFlow Datasets."""

    folder = enum.auto()
    shapes = enum.auto()
    tfds = enum.auto()


class Aspect(Choice):
    """How a photo becomes a square.

    `squash` changes the aspect ratio (the paper), `centre_crop` cuts off the ends of the longer
    side, `pad` continues the edges.
    """

    squash = enum.auto()
    centre_crop = enum.auto()
    pad = enum.auto()


class Variant(Choice):
    """Architecture of the generator.

    `two_generators` (the paper) has two mapping and two synthesis networks fed with the same
    latent, `one_generator` (ablation h) one network with 7 outputs, `shared_mapping` one mapping
    and two synthesis networks, `single_output` is a plain StyleGAN without a mask.
    """

    two_generators = enum.auto()
    one_generator = enum.auto()
    shared_mapping = enum.auto()
    single_output = enum.auto()

    @property
    def has_mask(self) -> bool:
        """Whether the generator draws a mask."""
        return self is not Variant.single_output


class MaskLosses(Choice):
    """The mask that eq. 3 and 4 act on: as generated (the paper) or as shifted (authors' code)."""

    unshifted = enum.auto()
    shifted = enum.auto()


class StudentMasks(Choice):
    """What a student learns of several foreground layers: their union, or what each shows."""

    union = enum.auto()
    each = enum.auto()


class FeatureTerm(Choice):
    """How the features of eq. 7 are weighted against the pixels.

    `sum` is the ratio of the paper's two sums, `mean` takes a mean over each instead.
    """

    sum = enum.auto()
    mean = enum.auto()


class Refinement(Choice):
    """How a mask is fitted to the edges of its photo; `segmenter/refine.py` describes each."""

    none = enum.auto()
    guided = enum.auto()
    grabcut = enum.auto()
    consensus = enum.auto()
    crf = enum.auto()
    iem = enum.auto()


# Better than `none` on all sets of docs/photos.md, and fast. `crf` is better still on most.
RECOMMENDED_REFINEMENT = Refinement.grabcut


class Quantization(Choice):
    """A TFLite file's numbers: float32, float16 weights, int8 weights, or int8 throughout.

    With `dynamic`, int8 weights are computed in float; with `int8`, `images` and `masks` are uint8.
    """

    none = enum.auto()
    float16 = enum.auto()
    dynamic = enum.auto()
    int8 = enum.auto()


class Instances(Choice):
    """Which of a detector's instances to use if there are several: all, or that of most pixels."""

    union = enum.auto()
    largest = enum.auto()


class Grid(Choice):
    """What the rows of a grid of generated scenes change.

    `interpolation` moves from each scene to the next, `truncation` to the mean style, `mixing`
    takes the coarse styles of each scene in turn, `shift` moves foreground and mask (eq. 2).
    """

    interpolation = enum.auto()
    truncation = enum.auto()
    mixing = enum.auto()
    shift = enum.auto()


class Precision(Choice):
    """Keras dtype policies. `auto` measures, before a run begins, whether a mixed one is faster."""

    auto = enum.auto()
    float32 = enum.auto()
    mixed_bfloat16 = enum.auto()
    mixed_float16 = enum.auto()


class Strategy(Choice):
    """Which devices train: one, all of one machine, or those of several machines.

    `auto` is `mirrored` where there are several accelerators, otherwise `one_device`.
    """

    auto = enum.auto()
    one_device = enum.auto()
    mirrored = enum.auto()
    multi_worker = enum.auto()
