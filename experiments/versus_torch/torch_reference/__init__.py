"""VariBAD and DynaMITE with PPO in PyTorch, in the usual architecture: what this project's speed is measured against.

Nothing here imports JAX; `experiments.versus_torch.benchmark` runs it as a program of its own.
"""
