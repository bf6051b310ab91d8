from __future__ import annotations

import pytest
import torch

from kd_perception.distillation.precision import autocast, choose_precision, cpu_has_bf16
from kd_perception.errors import ConfigError

CPU = torch.device('cpu')


def test_auto_takes_what_the_processor_multiplies() -> None:
    assert choose_precision('auto', CPU) == ('bf16' if cpu_has_bf16() else 'fp32')
    assert choose_precision('fp32', CPU) == 'fp32'


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match='fp16 trains on GPUs only'):
        choose_precision('fp16', CPU)


@pytest.mark.parametrize(('name', 'dtype'), [('fp32', torch.float32), ('bf16', torch.bfloat16)])
def test_autocast_computes_in_that_format(name: str, dtype: torch.dtype) -> None:
    with autocast(name, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
