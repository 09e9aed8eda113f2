"""A personal model as one file for machines that have neither this package nor, in ONNX, torch.

`graph` is what is exported: raw windows in; what `PersonalModel.predict` gives, and the score, out. `seen_windows`
is its first half, with `features`, `power_spectrum` and `standardization` as operations of torch. `onnx_file` and
`pt2_file` are the formats, `metadata` what a file tells of itself, `trial` the windows that it is tried on, and
`exporter` the whole way: nothing is written that does not say what the model says.
"""

from fml_lightning.export.exporter import FORMATS, Format, export
from fml_lightning.export.metadata import Metadata

__all__ = ["FORMATS", "Format", "Metadata", "export"]
