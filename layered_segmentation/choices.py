"""Settings with a few values; `config.py` has the settings that take them."""

import enum


class Choice(enum.StrEnum):
    """A setting with a few values.

    Members have the names that YAML files use, since OmegaConf reads and writes them by name.
    """

    def __repr__(self) -> str:
        return repr(self.value)


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


class Precision(Choice):
    """Keras dtype policies."""

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
