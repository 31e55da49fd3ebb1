"""The registered model: `classify` behind MLflow's interface.

MLflow runs this file itself ("models from code"), so nothing is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from pipeline.serving.classify import classify
from pipeline.serving.predictor import load_model_files


class PromptModel(PythonModel):
    """The prompts of one configuration, one per task."""

    def load_context(self, context: Any) -> None:
        """Load the backbone and the prompts.

        Raises:
            ValueError: if the backbone is not the one that the prompts were learned for.
        """
        paths = {name: Path(path) for name, path in context.artifacts.items()}
        self.predictor = load_model_files(paths["model"].parent, paths.get("backbone"))

    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow's interface)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify images.

        Args:
            context: MLflow's; not used.
            model_input: a table with column `image`: bytes or base64 of encoded images.
            params: `task`, `candidates` and `classes`, as in `classify`.

        Returns:
            One row per image, with the columns of `Predictor.answer`.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE (HTTP 400) on what `classify` refuses.
        """
        found = params or {}
        try:
            answer = classify(
                self.predictor,
                model_input["image"].tolist(),
                found.get("task"),
                found.get("candidates") or "all",
                found.get("classes") or (),
            )
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame(answer)


set_model(PromptModel())
