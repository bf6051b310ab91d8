"""A tiny real bundle for the verbs that serve one."""

from __future__ import annotations

import pytest

from kd_perception.bundle import BundleSpec, InputSpec, ModelBundle, NetworkSpec
from kd_perception.classes import load_class_set


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a student of 48x80 with random weights and its graphs."""
    torch = pytest.importorskip('torch')
    from kd_perception.networks.deploy import save_bundle
    from kd_perception.networks.registry import build

    torch.manual_seed(0)
    spec = BundleSpec(name='small', task='segmentation', role='student',
                      classes=load_class_set('driving'), input=InputSpec(48, 80),
                      network=NetworkSpec('compact', {'width': 8}))
    return save_bundle(tmp_path_factory.mktemp('models') / 'small',
                       build(spec.network, 12).eval(), spec)
