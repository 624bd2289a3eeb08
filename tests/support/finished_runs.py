"""What finished runs leave, as far as tables read it."""

import json

from dynamite_jax import config as configs
from dynamite_jax.analysis import statistics
from dynamite_jax.commands import runs
from dynamite_jax.runtime import provenance, run_folder

CODE = provenance.code()


def summary(returns, best=None):
    """What a finished run leaves, as far as tables read it."""
    references = {} if best is None else {"bayes_optimal": best}
    result = {"return": statistics.summarise(returns), "references": references, "recovery": {"steps": 4}}
    ran = {"commit": "c", "versions": {"jax": "1"}, "machine": {"cores": 2}, "code": CODE}
    ran |= {"encoder_updates": 4000, "encoder_steps": 5, "policy_updates": 6}
    return {"eval": result, "env_steps": 1, "steps_per_s": 2.0, "wall_s": 3.0, **ran}


def rows_of(run_configs, summaries):
    """Rows of finished runs whose returns while training were 0 and then those at the end, with their scores."""
    table = {}
    for name, config in run_configs.items():
        final = summaries[name]["eval"]["return"]["per_seed"]
        records = [{"env_steps": 10, "return": [0.0] * len(final)}, {"env_steps": 20, "return": final}]
        table[name] = runs.make_row(config, summaries[name], records)
    runs.score(table)
    return table


def leave(folder, config, record):
    """The folder of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    configs.save(config, folder / "config.json")
    (folder / "metrics.jsonl").write_text(json.dumps({"env_steps": 10, "return": record["eval"]["return"]["per_seed"]}))
    (folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
    origin = {"completed_chunks": 0, "commit": record["commit"], "code": record["code"]}
    (folder / run_folder.ORIGINS).write_text(json.dumps(origin))
    (folder / run_folder.SUMMARY).write_text(json.dumps(record))
