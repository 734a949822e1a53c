"""KerasHub's own checks of a task, from the test case that its wheel carries."""

import keras
import numpy as np
import pytest
from keras_hub.src.tests.test_case import TestCase
from tiny_networks import scenes

from layered_segmentation.segmenter.segmenter import LayeredSegmenter, create_segmenter
from layered_segmentation.segmenter.unet import UNetBackbone


class LayeredSegmenterTest(TestCase):
    def setUp(self):
        super().setUp()
        made = create_segmenter(8, 16)
        self.init_kwargs = {"backbone": made.backbone, "preprocessor": made.preprocessor}
        self.images = scenes(16, count=4)
        # `predict` gives an array's masks at its own size, a dataset's at the network's.
        self.train_data = (self.images, (self.images[..., :1] > 128).astype(np.float32))

    def test_task(self):
        self.run_task_test(
            cls=LayeredSegmenter,
            init_kwargs=self.init_kwargs,
            train_data=self.train_data,
            expected_output_shape=(4, 16, 16, 1),
        )

    def test_saved_model(self):
        self.run_model_saving_test(
            cls=LayeredSegmenter,
            init_kwargs=self.init_kwargs,
            input_data=self.images.astype(np.float32) / 127.5 - 1,
        )

    def test_backbone(self):
        self.run_vision_backbone_test(
            cls=UNetBackbone,
            init_kwargs={"width": 8, "levels": 3},
            input_data=np.ones((2, 16, 16, 3), np.float32),
            expected_output_shape=(2, 16, 16, 8),
            run_mixed_precision_check=False,
            run_quantization_check=False,
            run_data_format_check=False,
        )

    @pytest.mark.skipif(
        keras.backend.backend() != "torch",
        reason="KerasHub 0.32 runs it on the torch backend only; tflite_test.py has our own",
    )
    def test_litert(self):
        self.run_litert_export_test(
            cls=LayeredSegmenter,
            init_kwargs=self.init_kwargs,
            input_data=self.images.astype(np.float32) / 127.5 - 1,
        )
