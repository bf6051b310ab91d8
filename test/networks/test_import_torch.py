"""From weights and a builder to a full bundle."""

from __future__ import annotations

import json
from pathlib import Path
import re

import numpy as np
import pytest
import torch
from torch import nn

from kd_perception.bundle import DEPLOY, load_bundle, LOGITS, WEIGHTS
from kd_perception.engines.loader import load_engine
from kd_perception.errors import BundleError, ConfigError, KdPerceptionError
from kd_perception.networks import registry
from kd_perception.networks.foreign.wishes import wishes
from kd_perception.networks.import_torch import _folder, import_torch

DOCS = Path(__file__).resolve().parents[2] / 'docs' / 'foreign_networks.md'
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for p in module.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    return module.eval()


def normalised() -> torch.Tensor:
    x = torch.from_numpy(PICTURE).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((.485, .456, .406),
                                                            (.229, .224, .225)))
    return (x - mean) / std


def test_torchvision_gives_what_it_gave(tmp_path: Path) -> None:
    from torchvision.models import segmentation
    net = shaken(segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None,
                                                        num_classes=5))
    torch.save({'state_dict': net.state_dict()}, tmp_path / 'w.pth')
    result = import_torch(tmp_path / 'w.pth', tmp_path / 'b', 'torchvision',
                          {'architecture': 'lraspp_mobilenet_v3_large'},
                          wishes({'classes': 'a,b,c,d,e', 'size': '96x64'}, ''))
    assert 'same class on 100' in result.agreement
    bundle = load_bundle(tmp_path / 'b')
    assert {WEIGHTS, DEPLOY, LOGITS} <= set(bundle.files)
    with torch.inference_mode():
        expected = net(normalised())['out']
    got = load_engine(bundle, 'onnxruntime').infer(PICTURE)['mask']
    top = expected.topk(2, 1).values
    clear = (top[:, 0] - top[:, 1] > 0.02 * np.ptp(expected.numpy())).numpy()
    assert clear.mean() > 0.3
    assert (got == expected.argmax(1).numpy())[clear].all()


def test_a_classifier_of_timm(tmp_path: Path) -> None:
    import timm
    net = shaken(timm.create_model('mobilenetv3_small_050', num_classes=10))
    torch.save(net.state_dict(), tmp_path / 'w.pth')
    result = import_torch(tmp_path / 'w.pth', tmp_path / 'b', 'timm',
                          {'architecture': 'mobilenetv3_small_050'},
                          wishes({'classes': '10', 'size': '96x64'}, ''))
    assert result.bundle.spec.task == 'classification'
    with torch.inference_mode():
        expected = net(normalised()).softmax(1).numpy()
    for engine in ('onnxruntime', 'torch'):
        got = load_engine(result.bundle, engine).infer(PICTURE)['probabilities']
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_timm_says_what_an_architecture_was_fed(tmp_path: Path) -> None:
    import timm
    net = timm.create_model('mixer_s16_224', num_classes=3)
    torch.save(net.state_dict(), tmp_path / 'w.pth')

    def fed(**said: object) -> dict:
        return {f.key: f for f in import_torch(
            tmp_path / 'w.pth', None, 'timm', {'architecture': 'mixer_s16_224'},
            wishes({'classes': '3', **said}, '')).facts}

    facts = fed()
    assert facts['size'].value == '224x224'
    for key in ('mean', 'std'):
        assert (facts[key].value, facts[key].how) == ('0.5 0.5 0.5', 'default')
        assert 'of the published weights' in facts[key].why
    facts = fed(mean='imagenet', std='imagenet')
    assert (facts['mean'].value, facts['mean'].how) == ('0.485 0.456 0.406', 'asked')


def test_transformers_from_a_local_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip('transformers', reason='extra [hf] is not installed')
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16, id2label=dict(enumerate(['road', 'car', 'sky'])))
    net = shaken(transformers.SegformerForSemanticSegmentation(config))
    net.save_pretrained(tmp_path / 'm')
    bundle = import_torch(tmp_path / 'm', tmp_path / 'b', 'hf',
                          asked=wishes({'size': '96x64'}, '')).bundle
    assert bundle.spec.classes.names == ('road', 'car', 'sky')
    with torch.inference_mode():
        expected = net(pixel_values=normalised()).logits.numpy()
    got = load_engine(bundle, 'onnxruntime', graph='logits').infer(PICTURE)['logits']
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_preprocessor_says_what_becomes_of_pixels(tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text(json.dumps({
        'model_type': 'mobilevit', 'architectures': ['MobileViTForImageClassification']}))
    preprocessor = tmp_path / 'preprocessor_config.json'
    preprocessor.write_text('{"do_rescale": true, "do_flip_channel_order": true}')
    told = _folder(tmp_path, {}, wishes({}, ''))[2]
    assert (told.channel_order, told.range, told.mean) == ('bgr', '0..1', (0, 0, 0))
    asked = wishes({'channel_order': 'rgb'}, '')
    assert _folder(tmp_path, {}, asked)[2].channel_order == 'rgb'
    preprocessor.write_text('{"do_rescale": true, "do_flip_channel_order": false}')
    assert _folder(tmp_path, {}, wishes({}, ''))[2].channel_order is None
    for content, message in (('{"rescale_offset": true}', 'rescale_offset True changes pixels'),
                             ('{"include_top": true}', 'include_top True changes pixels'),
                             ('{"rescale_factor": 0.5}', 'rescale_factor 0.5 changes pixels')):
        preprocessor.write_text(content)
        with pytest.raises(BundleError, match=message):
            _folder(tmp_path, {}, asked)
        said = wishes({'range': '-1..1', 'mean': 'none', 'std': 'none'}, '')
        assert _folder(tmp_path, {}, said)[2].range == '-1..1'


def test_folders_of_transformers_that_cannot_be_used(tmp_path: Path) -> None:
    for config, message in [('{', 'is no JSON'), ('[]', 'is no mapping'),
                            ('{"auto_map": {}}', 'brings code of its own'),
                            ('{"architectures": ["Mask2FormerForUniversalSegmentation"]}',
                             'gives no plain logits')]:
        (tmp_path / 'config.json').write_text(config)
        with pytest.raises(KdPerceptionError, match=message):
            import_torch(tmp_path, None, 'hf')


def test_the_package_of_the_documentation_is_found(tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """A team's own module, installed as its metadata says, through a real entry point."""
    blocks = dict(re.findall(r'`([\w.]+)`:\n\n```\w+\n(.*?)```', DOCS.read_text(), re.S))
    (tmp_path / 'our_networks.py').write_text(blocks['our_networks.py'])
    entry = re.search(r'\[project.entry-points."kd_perception.networks"\]\n(\w+) = "([\w:]+)"',
                      blocks['pyproject.toml'])
    assert entry
    info = tmp_path / 'our_networks-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: our_networks\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(f'[kd_perception.networks]\n{entry[1]} = {entry[2]}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    net = shaken(registry.build(registry.NetworkSpec(entry[1], {'width': 12}), 4))
    torch.save({'model': {f'module.{n}': v for n, v in net.net.state_dict().items()}},
               tmp_path / 'w.pth')
    result = import_torch(tmp_path / 'w.pth', tmp_path / 'b', entry[1], {'width': 12},
                          wishes({'classes': 'a,b,c,d', 'size': '96x64'}, ''))
    with torch.inference_mode():
        expected = net(normalised()).numpy()
    for engine in ('onnxruntime', 'torch'):
        got = load_engine(result.bundle, engine, graph='logits').infer(PICTURE)['logits']
        np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize(('builder', 'arguments', 'said', 'message'), [
    ('torchvision', {'architecture': 'deeplab'}, {}, 'did you mean|it has deeplabv3'),
    ('torchvision', {'architecture': 'fcn_resnet50', 'weights': 'DEFAULT'}, {},
     'never downloaded'),
    ('timm', {'architecture': 'hf-hub:some/thing'}, {}, 'timm has no model'),
    ('timm', {'architecture': 'resnet10t', 'pretrained': True}, {}, 'never downloaded'),
    ('compact', {}, {'layout': 'nhwc'}, 'layout has no meaning'),
    ('compact', {}, {'classes': None}, 'give --classes'),
    ('compact', {}, {'size': None}, 'say which with --size'),
    ('compact', {'width': 8}, {'task': 'classification'}, 'that is segmentation'),
])
def test_bad_wishes_are_one_line(tmp_path: Path, builder: str, arguments: dict, said: dict,
                                 message: str) -> None:
    net = registry.build(registry.NetworkSpec('compact', {'width': 8}), 5)
    torch.save(net.state_dict(), tmp_path / 'w.pth')
    arguments = arguments or {'width': 8}
    with pytest.raises(KdPerceptionError, match=message) as told:
        import_torch(tmp_path / 'w.pth', tmp_path / 'b', builder, arguments,
                     wishes({'classes': '5', 'size': '96x64', **said}, ''))
    assert '\n' not in str(told.value)
    assert not (tmp_path / 'b').exists()


def test_the_multiple_is_advice_for_sizes_alone(tmp_path: Path) -> None:
    class Misspelt(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x, output_size=2)

    registry.register('misspelt')(lambda num_classes: Misspelt(3, num_classes, 1))
    torch.save(nn.Conv2d(3, 2, 1).state_dict(), tmp_path / 'w.pth')
    with pytest.raises(BundleError, match="unexpected keyword argument 'output_size'$"):
        import_torch(tmp_path / 'w.pth', None, 'misspelt', {},
                     wishes({'classes': '2', 'size': '8x8'}, ''))


def test_modules_that_give_no_logits(tmp_path: Path) -> None:
    class Pair(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(x), x

    registry.register('pair')(lambda num_classes: Pair(3, num_classes, 1))
    registry.register('many')(lambda num_classes: nn.Conv2d(3, num_classes + 1, 1))
    torch.save(nn.Conv2d(3, 2, 1).state_dict(), tmp_path / 'w.pth')
    with pytest.raises(BundleError, match='returns tuple, not logits'):
        import_torch(tmp_path / 'w.pth', None, 'pair', {},
                     wishes({'classes': '2', 'size': '8x8'}, ''))
    with pytest.raises(BundleError, match=r'returns \[1, 2, 8, 8\], not logits \[1, 1, h, w\]'):
        import_torch(tmp_path / 'w.pth', None, 'many', {},
                     wishes({'classes': '1', 'size': '8x8'}, ''))
    with pytest.raises(ConfigError, match='no network builder'):
        import_torch(tmp_path / 'w.pth', None, 'nose', {},
                     wishes({'classes': '1', 'size': '8x8'}, ''))
