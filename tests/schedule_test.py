from layered_segmentation import config as configs
from layered_segmentation import schedule


def paper():
    return schedule.stages(configs.load())


def test_the_papers_stages():
    table = [(s.resolution, s.batch, s.first_image, s.learning_rate) for s in paper()]
    assert [row[:2] for row in table] == [(8, 256), (16, 128), (32, 64), (64, 32), (128, 32)]
    assert [row[3] for row in table] == [0.001, 0.001, 0.001, 0.001, 0.0015]
    # 1.2 M images are 4,687.5 batches of 256: the stage ends with a whole batch.
    assert table[1][2] == 4688 * 256
    assert paper()[0].steps == 4688
    assert paper()[1].first_step == 4688
    assert paper()[1].steps == 9375


def test_alpha_by_hand():
    first, second = paper()[:2]
    assert schedule.alpha(first, 0) == 1.0
    assert second.fade_images == 600_000
    assert schedule.alpha(second, second.first_image) == 0.0
    assert schedule.alpha(second, second.first_image + 150_000) == 0.25
    assert schedule.alpha(second, second.first_image + 600_000) == 1.0
    assert schedule.alpha(second, second.end_image) == 1.0


def test_exceptions_by_resolution():
    config = configs.load(
        "",
        [
            "gan.resolution=32",
            "schedule.images_per_stage=100",
            "schedule.images_at.16=250",
            "schedule.batch={8: 10, 16: 10, 32: 10}",
            "schedule.learning_rate.32=0.5",
        ],
    )
    run = schedule.stages(config)
    assert [(s.resolution, s.images, s.first_image, s.first_step) for s in run] == [
        (8, 100, 0, 0),
        (16, 250, 100, 10),
        (32, 100, 350, 35),
    ]
    assert [s.learning_rate for s in run] == [0.001, 0.001, 0.5]


def test_a_resolution_that_is_not_listed_takes_the_next_smaller_batch():
    config = configs.load("", ["gan.resolution=512"])
    assert [s.batch for s in schedule.stages(config)][-2:] == [32, 32]
