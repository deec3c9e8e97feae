"""The embedded default: a world of facts, a corpus about it, and a tiny Llama and Mistral raised on that corpus."""
