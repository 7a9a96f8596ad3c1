"""What a training run takes, before it is launched: FLOPs, memory per GPU, time."""
