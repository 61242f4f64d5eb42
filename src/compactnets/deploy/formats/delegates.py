"""The delegates of ExecuTorch: what computes a network, or parts of it, instead of ExecuTorch's own plain kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Delegate:
    """One delegate.

    Attributes:
        name: what ``--delegate`` takes.
        title: its name for a reader.
        backend: its name in the runtime and in the file.
        device: what has it, for messages.
        float16: as for :class:`compactnets.deploy.formats.registry.Format`.
        packages: further packages that lowering to it needs.
        extra: the extra that installs these.
    """

    name: str
    title: str
    backend: str
    device: str
    float16: Literal["computed"] | None = None
    packages: tuple[str, ...] = ()
    extra: str | None = None


DELEGATES = {
    delegate.name: delegate
    for delegate in (
        Delegate("xnnpack", "XNNPACK", "XnnpackBackend", "any CPU"),
        Delegate("vulkan", "Vulkan", "VulkanBackend", "devices with Vulkan, such as Android phones", "computed"),
        Delegate(
            "coreml",
            "Core ML",
            "CoreMLBackend",
            "Apple's systems",
            "computed",
            packages=("coremltools",),
            extra="coreml",
        ),
    )
}
