from .resumable_test_loop import ResumableTestLoop
from .resumable_train_loop import ResumableTrainLoop

__all__ = ['ResumableTestLoop', 'ResumableTrainLoop']
