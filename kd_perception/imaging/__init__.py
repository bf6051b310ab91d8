"""
Image messages and files to arrays and back, without ROS.

Messages are duck-typed: anything with the fields of ``sensor_msgs/Image`` or
``sensor_msgs/CompressedImage`` will do, so bags and nodes share this codec. What goes out is a
colour picture, label ids, or depth in metres; damaged messages raise ``ImageError``.
"""

from kd_perception.imaging.codec import decode_message, ImageCodec, OWN_CODEC
from kd_perception.imaging.compressed import (
    decode_compressed,
    decode_label_image,
    decode_label_png,
    parse_format,
    picture_header,
)
from kd_perception.imaging.depth import compressed_size, decode_depth
from kd_perception.imaging.encodings import ChannelOrder, MAX_PIXELS
from kd_perception.imaging.pictures import (
    colorize,
    encode_jpeg,
    encode_png,
    overlay,
    resize_image,
    resize_labels,
)
from kd_perception.imaging.raw import decode_image, raw_view

__all__ = [
    'ChannelOrder', 'ImageCodec', 'MAX_PIXELS', 'OWN_CODEC', 'colorize', 'compressed_size',
    'decode_compressed',
    'decode_depth', 'decode_image', 'decode_label_image', 'decode_label_png',
    'decode_message', 'encode_jpeg', 'encode_png', 'overlay', 'parse_format',
    'picture_header', 'raw_view', 'resize_image', 'resize_labels',
]
