import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

from kd_perception.bundle import find_bundle
from kd_perception.engines.loader import load_engine
from kd_perception.errors import ConfigError
from kd_perception.imaging import resize_image
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import camera_info_message, header
from kd_perception.nodes.perception.camera_info import mask_camera_info
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.region import paste, Region, Window
from kd_perception.tasks.segmentation import SegmentationResult

NAME = '/perception'
POINT = np.array([0.7, -0.4, 5.0, 1.0])


@pytest.mark.parametrize(('text', 'region'), [
    ('', None), ('  ', None), ('0, 0.4, 1, 0.6', Region(0, 0.4, 1, 0.6)),
    ('[0.25,0.5,0.5,0.25]', Region(0.25, 0.5, 0.5, 0.25))])
def test_regions_are_read(text, region):
    assert Region.parse(text) == region


@pytest.mark.parametrize('text', ['1', '0,0,1', '0,0,1,1,1', 'a,b,c,d', '0,0,0,1', '-0.1,0,1,1',
                                  '0.5,0,0.6,1', '0,0,1,nan', '0,nan,1,0.5', '0,0,640,480'])
def test_impossible_regions_are_refused(text):
    with pytest.raises(ConfigError, match='region: '):
        Region.parse(text)


def test_windows_are_whole_pixels_and_never_empty():
    assert Region(0.25, 0.5, 0.5, 0.5).window(120, 160) == Window(40, 60, 80, 60)
    assert Region().window(7, 5) == Window(0, 0, 5, 7)
    assert Region(0.999, 0.999, 0.001, 0.001).window(4, 4) == Window(3, 3, 1, 1)


def test_outside_of_the_window_nothing_is_known():
    part = SegmentationResult(np.full((2, 3), 7, np.uint8), np.full((2, 3), 200, np.uint8))
    whole = paste(part, Window(1, 2, 3, 2), 5, 6)
    assert (whole.mask == 7).sum() == (whole.confidence == 200).sum() == 6
    assert (whole.mask[2:4, 1:4] == 7).all()
    assert (whole.mask == 255).sum() == (whole.confidence == 0).sum() == 24


def pixel(info):
    u, v, w = np.reshape(info.p, (3, 4)) @ POINT
    return np.array([u / w, v / w])


def lens():
    return camera_info_message(640, 480, 500., 510., 320., 240., header(1, 'c'))


def test_intrinsics_scale_with_the_image():
    half = mask_camera_info(lens(), header(2, 'd'), (480, 640), (120, 320))
    assert (half.width, half.height) == (320, 120)
    assert list(half.k) == [250., 0., 160., 0., 127.5, 60., 0., 0., 1.]
    assert list(half.p)[:7] == [250., 0., 160., 0., 0., 127.5, 60.]
    assert half.header == header(2, 'd')
    same = mask_camera_info(lens(), header(1, 'c'), (480, 640), (480, 640))
    assert same == lens()


def test_a_point_is_found_in_the_mask_of_a_window():
    seen = Window(100, 60, 400, 300)
    info = mask_camera_info(lens(), header(1, 'c'), (480, 640), (75, 200), seen)
    expected = (pixel(lens()) - [100, 60]) * [200 / 400, 75 / 300]
    assert pixel(info) == pytest.approx(expected)


def test_roi_and_binning_of_the_driver_are_honoured():
    # The driver sends half of the sensor's columns, two of its pixels in one.
    info = lens()
    info.binning_x = info.binning_y = 2
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 320, 0, 320, 480
    image = (240, 160)
    whole = mask_camera_info(info, header(1, 'c'), image, image)
    assert (whole.binning_x, whole.roi.width, whole.roi.x_offset) == (0, 0, 0)
    assert pixel(whole) == pytest.approx((pixel(lens()) - [320, 0]) / 2)
    part = mask_camera_info(info, header(1, 'c'), image, (50, 50), Window(10, 20, 100, 100))
    assert pixel(part) == pytest.approx((pixel(whole) - [10, 20]) / 2)


def test_the_node_looks_at_the_region_alone(bench, camera, bundles):
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    bundle = find_bundle('one', bundles)
    engine = load_engine(bundle, 'onnxruntime', threads=1)
    lower = np.ascontiguousarray(picture[60:, 40:120])
    network = engine.infer(resize_image(lower, 64, 96)[None])['mask'][0]
    engine.close()
    options = {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
               'warmup_iterations': 0, 'region': '0.25, 0.5, 0.5, 0.5'}
    infos = bench.collect(CameraInfo, 'segmentation/camera_info', qos.stream())
    overlays = bench.collect(Image, 'overlay', qos.stream())

    def pixels(message):
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1)

    with bench.running(PerceptionNode, **options):
        front = camera()
        lens = bench.node.create_publisher(CameraInfo, 'camera_info', qos.stream())
        bench.spin_until(lens.get_subscription_count)
        lens.publish(camera_info_message(160, 120, 100., 100., 80., 60., header(0, '')))
        mask = pixels(front.ask(picture))[..., 0]
        assert mask.shape == (120, 160)
        outside = np.ones_like(mask, bool)
        outside[60:, 40:120] = False
        assert (mask[outside] == 255).all()
        assert set(np.unique(mask[~outside])) <= set(np.unique(network))
        bench.spin_until(lambda: front.ask(picture) and infos and overlays)
        assert (infos[-1].width, infos[-1].k[2]) == (160, 80.)
        assert np.array_equal(pixels(overlays[-1])[outside], picture[outside])
        # At the network's size the region is all of the mask, and the intrinsics say so.
        assert bench.set_parameters(NAME, output_size='network')[0].successful
        mask = front.ask(picture)
        assert np.array_equal(pixels(mask)[..., 0], network)
        bench.spin_until(lambda: infos[-1].header == mask.header)
        assert infos[-1].k[0] == pytest.approx(100 * 96 / 80)
        assert infos[-1].k[2] == pytest.approx((80 - 40) * 96 / 80)
        bench.spin_until(lambda: overlays[-1].header == mask.header)
        assert np.array_equal(pixels(overlays[-1])[outside], picture[outside])
        refused = bench.set_parameters(NAME, region='0, 0, 2, 1')[0]
        assert 'does not lie in the image' in refused.reason
        assert bench.set_parameters(NAME, region='', output_size='input')[0].successful
        assert 255 not in pixels(front.ask(picture))
