"""The inner loop and its machinery: how parameters adapt to a task.

Read `inner_loop` first, then `network` (a network as a pure function of its parameters, for T tasks), `stacking`
(T tasks in one pass) and `gradients`. `tied_weights` and `first_pass` say which networks can be trained;
`learned_rates`, `compiled` and `batch_norm` are what some learners add.
"""

from fml_lightning.adaptation.inner_loop import InnerLoop, adapt, trajectory
from fml_lightning.adaptation.stacking import looped, stacked

__all__ = ["InnerLoop", "adapt", "looped", "stacked", "trajectory"]
