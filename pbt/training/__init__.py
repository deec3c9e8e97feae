"""Stage: pairs -> model. SFT on the chosen turns, then DPO on the pairs, both by TRL."""
