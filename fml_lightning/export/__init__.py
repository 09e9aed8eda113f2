"""A personal model as one file for machines that have neither this package nor, in ONNX, torch.

`graph` is what is exported: raw windows in; what `PersonalModel.predict` gives, and the score, out. `seen_windows`
is its first half, with `features` and `standardization` as operations of torch. `fourier` has the transforms, of
which are `power_spectrum`, `cepstrum`, `spectral_kurtosis` and the `envelope`, with its `fault_lines` and its
`order_spectrum`; `order_bins` and `told_speed` are what those of orders share. `onnx_file` and
`pt2_file` are the formats, `metadata` what a file tells of itself, `trial` the windows that it is tried on, and
`exporter` the whole way: nothing is written that does not say what the model says.
"""

from fml_lightning.export.exporter import FORMATS, Format, export
from fml_lightning.export.metadata import Metadata

__all__ = ["FORMATS", "Format", "Metadata", "export"]
