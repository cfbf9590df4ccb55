"""Parts that resume a run exactly where it stopped."""
