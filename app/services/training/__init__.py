"""From choices to a better model: samples, datasets, training scripts, judgement, promotion."""

from app.services.training.collector import TrainingDataCollector
from app.services.training.trainer import ModelTrainer

__all__ = ["ModelTrainer", "TrainingDataCollector"]
