import dataclasses

import pytest


@pytest.fixture(scope="module")
def shared_trainers(shallow_resnet):
    """Commands with the same settings share a trainer, because building its networks is slow.

    Each training starts from the same weights, so the results are those of separate trainers. The
    runs of a module must have the same networks.
    """
    from layered_segmentation.segmenter import encode

    trainers, create = {}, encode.EncoderTrainer

    def shared(generator, discriminator, config, devices=()):
        settings = dataclasses.replace(config.encoder, chunk=1, together=1)
        key = f"{settings} {config.gan} {config.train.seed} {config.data.aspect} {devices}"
        if key not in trainers:
            trainers[key] = create(generator, discriminator, config, devices)
        return trainers[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "EncoderTrainer", shared)
        yield
