"""Slurm: what each site allows (`site`), the batch script (`script`), submitting it and looking after jobs (`jobs`)."""
