"""Training on several threads, processes and devices: FSDP2, tensor parallelism, CPU threads."""
