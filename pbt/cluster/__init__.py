"""The stages as jobs of a SLURM cluster: batch scripts, submission, status; and Ray over the nodes of a job."""
