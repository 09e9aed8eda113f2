"""Preprocessing: from a machine's signals to what the network sees.

Read `preprocessing` (all of it, in one object), `windowing` (how signals are cut), `resampling` (to another sample
rate, whole or a part at a time; `window_grid` is where windows lie then), `window_cutter` (signals that
arrive in a `block` at a time, in any order, each part of a `stretch` without a gap; what came before is `seen`,
and its time `covered`), then `features` for the contract; `spectral`, `time_domain`, `moments` and `trend` are the
features there are. Those of rotating machines are in multiples of a speed: `fault_lines` of bearings, and
`order_spectrum`, from the `envelope`; `cepstrum`; `spectral_kurtosis`, which finds the band; `shaft_speed` sees
whether the speed is right. `standardize` brings channels or features to one scale, by `statistics`.
"""

from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.cepstrum import Cepstrum
from fml_lightning.preprocessing.fault_lines import FaultLines
from fml_lightning.preprocessing.features import Column, Concat, Features, RawWindows
from fml_lightning.preprocessing.moments import Moments
from fml_lightning.preprocessing.order_spectrum import OrderSpectrum
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.shaft_speed import ShaftSpeed, SpeedEstimate, estimate_speed
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.spectral_kurtosis import Kurtogram, SpectralKurtosis, kurtogram
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.statistics import Statistics
from fml_lightning.preprocessing.time_domain import TimeDomain
from fml_lightning.preprocessing.trend import Trend
from fml_lightning.preprocessing.window_cutter import WindowCutter
from fml_lightning.preprocessing.windowing import Windowing

__all__ = [
    "Block",
    "Cepstrum",
    "Column",
    "Concat",
    "FaultLines",
    "Features",
    "Kurtogram",
    "LogBandPowers",
    "Moments",
    "OrderSpectrum",
    "Preprocessing",
    "RawWindows",
    "ShaftSpeed",
    "SpectralKurtosis",
    "SpeedEstimate",
    "Standardize",
    "Statistics",
    "TimeDomain",
    "Trend",
    "WindowCutter",
    "Windowing",
    "estimate_speed",
    "kurtogram",
]
