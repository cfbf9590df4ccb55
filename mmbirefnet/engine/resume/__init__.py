"""What makes a run continue exactly where it stopped."""
