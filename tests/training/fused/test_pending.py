"""Pending tensors, as torch's functions take them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compactnets.training.fused.native import missing
from compactnets.training.fused.pending import Pending


@pytest.mark.skipif(missing() is not None, reason="no C compiler")
def test_a_pending_tensor_is_taken_by_torch() -> None:
    x = torch.randn(2, 4, 3, 3)
    pending = Pending((x,), (torch.zeros(4), torch.full((4,), 2.0), torch.ones(4)), 0.0)
    expected = (2 * x + 1).relu()
    taken: Any = pending
    torch.testing.assert_close(torch.sigmoid(taken), expected.sigmoid())
    torch.testing.assert_close(pending.flatten(1), expected.flatten(1))
    torch.testing.assert_close(pending[:, :2] * pending[:, 2:], expected[:, :2] * expected[:, 2:])
    assert pending.shape == x.shape
