"""Tables and rankings of scores."""
