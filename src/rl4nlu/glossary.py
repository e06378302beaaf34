"""What the words in logs, results and run folders mean: one truth for `rl4nlu explain` and the reference page."""

from __future__ import annotations

LOGGED: dict[str, str] = {
    "step": "number of the step, from 1",
    "loss": "what the optimizer minimises, mean over the step's answer tokens (of `classify`: over its rows)",
    "grad_norm": "norm of the gradient before it is clipped to --max-grad-norm",
    "learning_rate": "in this step",
    "examples_per_second": "training rows of the step by its seconds",
    "tokens_per_second": "tokens of prompts and answers of the step by its seconds",
    "held_out": "score on held-out training rows, mean over the tasks of each one's first metric (--select-rows)",
    "reward": "mean of what the step's answers earned, without the KL penalty",
    "expected_reward": "the reward that the policy expects, summed over all labels instead of sampled",
    "accuracy": "share of the step's sampled answers that are right, by the same judge as the metric",
    "unparsable": "share of the step's answers from which no label can be read",
    "kl": "how far the policy is from its reference: nats an answer, mean of log p - log p_ref over sampled answers "
    "(over labels: the exact sum)",
    "kl_coef": "weight of the per-token KL penalty in this step",
    "entropy": "of the policy's next-token distribution, nats, mean over answer tokens",
    "answer_tokens": "mean length of an answer in tokens",
    "policy_loss": "the clipped surrogate objective of PPO, negated (Schulman et al. 2017, equation 7)",
    "value_loss": "half of the critic's squared error, clipped",
    "approx_kl": "how far the policy has moved within the step: mean of ratio - 1 - log ratio, nats a token",
    "clipfrac": "share of actions for which clipping the ratio to 1 +- --clip changed the loss; a large share says "
    "that steps are too large: lower --learning-rate or --inner-epochs",
    "ratio": "mean of p_new / p_old over the actions",
    "first_ratio": "the ratio before the step's first update, 1 but for rounding: anything else is a bug",
    "inner_epochs": "passes over the step's answers; fewer than asked for where --stop-kl ended them",
    "skipped": "share of answers without a loss, since all answers to their prompt earned the same (--skip-flat)",
    "explained_variance": "share of the returns' variance that the critic foresaw; 0 is no better than their mean",
    "most_common": "share of the most common answer, to see a policy that says one thing to all rows",
    "gold_common": "share of the most common gold label in the step, to compare with",
    "metric": "the task's metric on the running table of gold labels and answers (--reward metric)",
    "sft_loss": "mean of -log p(gold answer) a token (--sft-coef)",
    "collapse": "collapses of the policy that were found in this step, by name",
}
"""Columns of metrics.jsonl."""

RESULTS: dict[str, str] = {
    "task": "name of the task",
    "method": "zero-shot, few-shot, sft, ppo or classify",
    "estimator": "of the advantage: gae, rloo, grpo, reinforce++ or expected",
    "actions": "what the policy could say: free text, or labels only",
    "name": "the method's name in its suite",
    "model": "the base model",
    "tune": "classify: full, all weights are trained, or lora",
    "template": "plain or verdict",
    "shots": "examples in every prompt",
    "reason": "tokens of free text that the model could write before its verdict",
    "decode": "score: label words were scored; greedy or sample: text was generated and parsed",
    "calibrate": "how the model's bias was taken out of scored labels",
    "unparsable_as": "random: answers that could not be parsed got a random label",
    "seed": "all randomness is derived from it",
    "split": "on which it was measured",
    "cut_rows": "prompts that were shortened to fit the model",
    "n": "rows",
    "metrics": "name -> value, from 0 to 1 (correlations from -1)",
    "stderr": "name -> standard error over the rows (documents, where rows share one)",
    "unparsable": "answers from which no label could be read; they count as wrong",
    "seconds": "of the evaluation",
    "train_rows": "rows that were learnt from",
    "steps": "of the training",
    "best_step": "whose state was kept, by held-out training rows; 0: the start",
    "held_out": "the kept state's score on held-out training rows",
    "trained_on": "the tasks, of one adapter for several",
    "collapse": "collapses of the policy that were seen in training",
}
"""Entries of results.json."""

FILES: dict[str, str] = {
    "config.yaml": "all settings; `rl4nlu COMMAND config.yaml` makes the run again",
    "command.txt": "the command that makes the run again",
    "environment.json": "versions of Python and the libraries, how many processes made the run, where it was begun",
    "identity.json": "fingerprints of settings, rows, prompts and weights: `resume` wants the same ones",
    "held_out.json": "ids of the training rows that were held out, by task; a run that starts here takes the same",
    "results.json": "scores with standard errors, one entry a task",
    "predictions.jsonl": "one row a line: id, gold, prediction, log-probabilities of the labels or the text",
    "prompts.json": "the prompts of up to 200 rows a task, for a reader of the answers",
    "metrics.jsonl": "one training step a line",
    "adapter": "the LoRA weights; plain peft loads them",
    "model": "the whole model, where all weights were trained",
    "value_head.safetensors": "PPO's critic, for a training that goes on from there",
    "label_bias.json": "task -> label -> what a policy over labels takes out of its log-probability",
    "checkpoints": "from which `rl4nlu resume` goes on",
    "tasks": "copies of the user's own task files",
    "status.json": "running, finished, stopped, diverged or failed, and why",
    "diverged.json": "the rows of the step in which something was not finite",
    "run.lock": "held by the process that works in the folder",
    "README.md": "the model card",
}
"""In a run folder."""

STATES: dict[str, str] = {
    "running": "a process works in it",
    "finished": "all is done; see results.json",
    "stopped": "a signal, a full disk, too little memory or the end of another process of the run ended it; "
    "`rl4nlu resume RUN` goes on",
    "killed": "its process is gone without a word; `rl4nlu resume RUN` goes on from the last checkpoint",
    "diverged": "a loss, a gradient or a log-probability was not finite; diverged.json names the rows. Lower "
    "--learning-rate, or look at the rows",
    "failed": "it ended with an error; `why` in status.json says which",
}
"""How far a run is."""

EXIT_CODES: dict[str, str] = {
    "0": "done",
    "1": "runs of a suite failed, or a mistake of the program itself, with its traceback",
    "2": "a mistake in the input; one line says what and how to mend it",
    "3": "the training diverged; diverged.json names the rows",
    "4": "the disk is full; the last checkpoint is whole",
    "5": "too little memory, with a micro-batch of one row too",
    "6": "another process of the run has ended; what was saved is whole",
    "129": "SIGHUP: the terminal was closed; a checkpoint is saved",
    "130": "SIGINT: Ctrl-C; a checkpoint is saved",
    "138": "SIGUSR1: a batch system's warning; a checkpoint is saved",
    "143": "SIGTERM; a checkpoint is saved",
}
"""How a command ends."""

ESTIMATORS: dict[str, str] = {
    "gae": "generalised advantage estimation with a critic: PPO as in the paper (Schulman et al. 2016)",
    "rloo": "the reward less the mean of the prompt's other answers (Ahmadian et al. 2024)",
    "grpo": "the reward less the mean of the prompt's answers, by their standard deviation (Shao et al. 2024)",
    "reinforce++": "the reward to go, normalised over the batch (Hu 2025)",
    "expected": "no sampling: the expected reward, summed exactly over all labels",
}
"""--estimator."""

METRICS: dict[str, str] = {
    "accuracy": "share of rows that are answered rightly",
    "matthews": "Matthews' correlation: 0 for chance or one answer for all rows, 1 for all right",
    "f1": "F1 of the task's last label: harmonic mean of precision and recall",
    "macro_f1": "mean of the labels' F1",
    "pearson": "Pearson's correlation of answers and gold numbers",
    "spearman": "rank correlation of answers and gold numbers",
    "f1a": "F1 over all answer options (MultiRC)",
    "exact_match": "share of questions all of whose options are judged rightly (MultiRC)",
    "gender_parity": "share of pairs that differ in a pronoun's gender only and get the same answer (AX-g)",
    "record_em": "share of queries whose chosen entity is one of the gold ones (ReCoRD)",
    "record_f1": "overlap in words of the chosen entity with the best gold one (ReCoRD)",
}
"""Of tasks. An answer that cannot be parsed counts as wrong."""

REPORT: dict[str, str] = {
    "stderr": "standard error, the number behind a +-: how much a score would vary if other rows were asked",
    "p": "how often a difference so large comes about by chance if there is none, adjusted for all tests of the report",
    "real": "of a difference: p is below 0.05; else it may be chance",
    "mcnemar": "exact test of two methods' accuracy on the same rows, by those that only one has right (McNemar 1947)",
    "holm": "the adjustment of p for the number of tests (Holm 1979)",
    "ece": "expected calibration error: mean distance of accuracy from probability, in ten bins (Guo et al. 2017)",
    "log loss": "mean of -log p(gold label), in nats",
    "before": "in the cost table: seconds of the training that a run started from",
    "zero-shot": "the model is asked with nothing but the prompt",
    "few-shot": "the model is asked with examples in the prompt (--shots)",
}
"""In reports."""

SHORT: dict[str, str] = {
    "acc": "accuracy",
    "unparsed": "unparsable",
    "ex/s": "examples_per_second",
    "examples/s": "examples_per_second",
    "held-out score": "held_out",
    "kl from the reference": "kl",
    "clipped share": "clipfrac",
    "unparsable share": "unparsable",
    "standard error": "stderr",
    "cut": "cut_rows",
}
"""What lines of progress and reports call a quantity -> its name."""
