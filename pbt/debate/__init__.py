"""What a debate is: turns, trees, protocols, answers. Pure: no engine, no file, no GPU."""
