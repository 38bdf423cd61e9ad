"""Networks as scikit-learn estimators, for pipelines, searches and cross-validation: ``pip install 'chainrule[sklearn]'``."""

from chainrule.core.errors import MissingExtraError

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise MissingExtraError("chainrule.sklearn needs scikit-learn: pip install 'chainrule[sklearn]'") from error

from chainrule.sklearn.classifier import NeuralNetClassifier as NeuralNetClassifier
from chainrule.sklearn.regressor import NeuralNetRegressor as NeuralNetRegressor
