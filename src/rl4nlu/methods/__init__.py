"""The methods: evaluate (zero-shot, few-shot), sft, ppo, classify, predict; training.py is what trainings share."""
