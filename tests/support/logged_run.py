"""`layerseg train` that logs the losses of every step."""

from layered_segmentation.cli import app, train


def main(argv):
    from layered_segmentation import quiet

    quiet.import_tensorflow()
    from layered_segmentation.gan import callbacks

    callbacks.LOG_EVERY = 1
    train.main(argv)


if __name__ == "__main__":
    main.__module__ = train.__name__  # whose flags it has
    app.run(main)
