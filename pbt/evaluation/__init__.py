"""What a model is worth: evaluations, their statistics, and the scorecard that compares models."""
