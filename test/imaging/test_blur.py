import cv2
import numpy as np
import pytest

from kd_perception.classes import ClassSet, load_class_set
from kd_perception.errors import ConfigError
from kd_perception.imaging.blur import (
    blur_boxes,
    blur_pixels,
    Box,
    classes_to_blur,
    FacesAndPlates,
)


def noise(height=120, width=160):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_box_becomes_a_mosaic_of_at_most_four_cells_and_the_rest_stays():
    image = noise()
    out = blur_boxes(image, [Box(10, 20, 80, 60)])
    part = out[20:80, 10:90]
    assert len(np.unique(part.reshape(-1, 3), axis=0)) <= 4 * 6
    assert part.std() < image.std() / 4
    untouched = np.ones(image.shape[:2], bool)
    untouched[20:80, 10:90] = False
    assert (out[untouched] == image[untouched]).all()
    assert (image == noise()).all()


def test_pixels_of_a_mask_are_hidden_with_a_margin():
    image = noise()
    where = np.zeros((120, 160), bool)
    where[40:80, 60:80] = True
    out = blur_pixels(image, where)
    changed = (out != image).any(2)
    assert changed[40:80, 60:80].mean() > 0.95
    assert changed[36:84, 56:84].mean() > 0.95
    assert not changed[:35].any()
    assert not changed[85:].any()
    assert (blur_pixels(image, np.zeros((120, 160), bool)) == image).all()


def test_people_and_vehicles_are_found_by_name():
    driving = load_class_set('driving')
    assert {driving.names[i] for i in classes_to_blur(driving)} == {'person', 'vehicle'}
    carla = load_class_set('carla')
    names = {carla.names[i] for i in classes_to_blur(carla)}
    assert {'rider', 'car', 'bus'} <= names
    assert not names & {'road', 'roads', 'sky', 'guard_rail', 'rail_track'}
    with pytest.raises(ConfigError, match='no class of people'):
        classes_to_blur(ClassSet.from_names('own', ['road', 'scarf', 'carpet', 'truck']))
    with pytest.raises(ConfigError, match='no class of vehicles'):
        classes_to_blur(ClassSet.from_names('own', ['road', 'people', 'carpet']))


def test_names_of_other_data_sets_are_understood():
    names = ['Child', 'SUVPickupTruck', 'Truck_Bus', 'MotorcycleScooter', 'human--person',
             'person, individual', 'other-vehicles', 'buses', 'Sky', 'road', 'VegetationMisc']
    found = classes_to_blur(ClassSet.from_names('own', names))
    assert [names[i] for i in found] == names[:8]


def test_the_cascades_are_there_and_what_they_find_lies_in_the_picture():
    find = FacesAndPlates()
    assert find(np.full((120, 160, 3), 128, np.uint8)) == []
    # A drawn face: bright oval, dark eyes and mouth.
    face = np.full((240, 320, 3), 60, np.uint8)
    cv2.ellipse(face, (60, 100), (45, 60), 0, 0, 360, (220, 220, 220), -1)
    for x in (42, 78):
        cv2.ellipse(face, (x, 85), (11, 6), 0, 0, 360, (20, 20, 20), -1)
        cv2.line(face, (x - 13, 72), (x + 13, 72), (60, 60, 60), 4)
    cv2.line(face, (60, 90), (60, 115), (150, 150, 150), 6)
    cv2.ellipse(face, (60, 132), (18, 6), 0, 0, 360, (60, 60, 60), -1)
    boxes = find(cv2.GaussianBlur(face, (5, 5), 0))
    assert boxes
    for box in boxes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= 320
        assert box.y + box.height <= 240
    assert any(b.x < 60 < b.x + b.width and b.y < 100 < b.y + b.height for b in boxes)
