"""Looking at gradients: are they right, how far do they travel through time, and where do they die?"""

from .central_differences import GradcheckReport, gradcheck
from .flow import Gate, GradientFlow, LayerFlow, Verdict, gradient_flow
from .truncation import TruncationBias, truncation_bias
from .watch import WatchGradients

__all__ = [
    "Gate",
    "GradcheckReport",
    "GradientFlow",
    "LayerFlow",
    "TruncationBias",
    "Verdict",
    "WatchGradients",
    "gradcheck",
    "gradient_flow",
    "truncation_bias",
]
