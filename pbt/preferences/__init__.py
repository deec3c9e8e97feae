"""The stage trees -> preference pairs: scores, rules, splits, balance, and the dataset folder."""
