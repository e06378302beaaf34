"""How settings are grouped wherever they are shown, which of them help shows first, and what other tools call them."""

from __future__ import annotations

GROUPS: dict[str, str] = {
    "what to run on": "task model init adapter preset data input output split limit eval_limit max_bad_rows seeds",
    "in the file alone": "tasks models methods common",
    "search in ranges": "search.trials search.sampler search.batch",
    "prompts and answers": "template chat shots shots_seed decode answer_tokens unparsable calibrate reason max_length "
    "truncate",
    "training": "tune epochs max_steps batch_size learning_rate optimizer schedule warmup weight_decay max_grad_norm "
    "select_rows mixing mixture_cap lora.r lora.alpha lora.dropout lora.rslora lora.target",
    "reinforcement learning": "estimator actions reward answers format_penalty metric_window kl_coef "
    "kl_target kl_horizon stop_kl entropy_coef sft_coef inner_epochs minibatch clip value_clip value_coef "
    "critic_warmup gamma lam whiten group_std skip_flat oversample debias on_collapse",
    "output and memory": "out seed jobs ray retries dry_run save_every track device dtype quantize max_tokens",
    "sharing": "base merged private predictions force",
}
"""Group -> its settings, those of all commands, in the order in which they are shown."""

FIRST: dict[str, str] = {
    "evaluate": "task model adapter data split limit template chat shots decode answer_tokens calibrate out seed "
    "device max_tokens",
    "sft": "task model init data limit template chat epochs max_steps batch_size learning_rate select_rows lora.r "
    "lora.alpha out seed save_every device max_tokens",
    "ppo": "task model init data limit template chat epochs max_steps batch_size learning_rate lora.r estimator "
    "actions reward answers kl_coef entropy_coef sft_coef out seed save_every device max_tokens",
    "classify": "task model data limit tune epochs max_steps batch_size learning_rate lora.r out seed save_every "
    "device",
}
"""Command -> what its `--help` shows: what most users need. Of the other commands it shows all settings."""

ALSO_CALLED: dict[str, str] = {
    "lr": "learning_rate",
    "rank": "lora.r",
    "lora_rank": "lora.r",
    "lora_r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "use_rslora": "lora.rslora",
    "target_modules": "lora.target",
    "model_name": "model",
    "model_name_or_path": "model",
    "task_name": "task",
    "tasks": "task",
    "dataset": "task",
    "data_dir": "data",
    "output_dir": "out",
    "adapter_name_or_path": "adapter",
    "checkpoint": "init",
    "num_fewshot": "shots",
    "n_shots": "shots",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "steps": "max_steps",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "mini_batch_size": "minibatch",
    "max_seq_length": "max_length",
    "optim": "optimizer",
    "lr_scheduler_type": "schedule",
    "scheduler": "schedule",
    "warmup_ratio": "warmup",
    "save_steps": "save_every",
    "algorithm": "estimator",
    "advantage": "estimator",
    "num_generations": "answers",
    "max_new_tokens": "answer_tokens",
    "ppo_epochs": "inner_epochs",
    "num_ppo_epochs": "inner_epochs",
    "cliprange": "clip",
    "clip_range": "clip",
    "cliprange_value": "value_clip",
    "vf_coef": "value_coef",
    "ent_coef": "entropy_coef",
    "entropy_bonus": "entropy_coef",
    "kl_penalty": "kl_coef",
    "init_kl_coef": "kl_coef",
    "quantization": "quantize",
    "load_in_8bit": "quantize",
    "load_in_4bit": "quantize",
    "target_kl": "kl_target",
    "lambda": "lam",
    "gae_lambda": "lam",
}
"""What the same thing is called elsewhere -> the setting. For suggestions only: no such name is accepted."""
