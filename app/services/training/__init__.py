"""From choices to a better model: samples, datasets, training scripts, judgement, promotion."""

from app.services.training.collector import TrainingDataCollector

__all__ = ["TrainingDataCollector"]
