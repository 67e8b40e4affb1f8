"""A trained cascade as an ONNX file, for programs without PyTorch."""

import importlib.util
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from hpe_lib.cascade import Cascade
from hpe_lib.skeleton import MPII
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput


class _Confidences(nn.Module):
    """A cascade that returns tensors only: confidences and, with a regressor, its maps."""

    def __init__(self, cascade: Cascade):
        super().__init__()
        self.cascade = cascade

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One or two tensors (B, 16, h, w) of uint8 crops (B, S, S, 3)."""
        maps = self.cascade(images)
        confidence = self.cascade.confidence(maps.detector)
        return (confidence,) if maps.regressor is None else (confidence, maps.regressor)


def export_onnx(cascade: Cascade, path: str | Path) -> None:
    """Write a cascade as ONNX, opset 18, without flip test and decoder.

    Input: `images` (B, S, S, 3) uint8 RGB; any B, S as trained. Outputs: `detector` (B, 16, h, w)
    confidences and, with a regressor, `regressor` (B, 16, h, w) maps. The file's metadata hold
    joints, map_stride and image_size. BadInput without the packages of hpe-lib[onnx].
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise BadInput("ONNX export", "no onnxscript", "pip install 'hpe-lib[onnx]'")
    size = cascade.network["image_size"]
    network = _Confidences(deepcopy(cascade).cpu().float()).eval()
    crops = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        maps = network(crops)  # two of a detector alone, if it is a stacked hourglass
    program = torch.onnx.export(
        network,
        (crops,),
        dynamo=True,
        opset_version=18,
        verbose=False,
        input_names=["images"],
        output_names=["detector", "regressor"][: len(maps)],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    program.model.metadata_props.update(
        joints=",".join(MPII.names), map_stride=str(cascade.map_stride), image_size=str(size)
    )
    artifacts.write_bytes(path, program.model_proto.SerializeToString())
