"""An evaluation as a printed table."""

from rich.console import Console
from rich.table import Table

from dynamite_jax.runtime import loggers


def report(result: loggers.Record) -> None:
    """Print an evaluation as a table."""
    table = Table(title=f"{result['episodes']} episodes a seed", show_header=False)
    returns = result["return"]
    table.add_row("return, IQM [95 % interval]", "{:.2f} [{:.2f}, {:.2f}]".format(returns["iqm"], *returns["ci95"]))
    table.add_row("return, each seed", ", ".join(f"{value:.2f}" for value in returns["per_seed"]))
    for name, value in result["references"].items():
        table.add_row(name.replace("_", "-"), f"{value:.2f}")
    if "fraction_of_bayes_optimal" in result:
        table.add_row("fraction of Bayes-optimal", f"{result['fraction_of_bayes_optimal']:.2%}")
    for name, value in result.get("outcomes", {}).items():
        table.add_row(name, "{:.2f} [{:.2f}, {:.2f}]".format(value["iqm"], *value["ci95"]))
    if "regret" in result:
        regret = result["regret"]
        table.add_row("regret, IQM [95 % interval]", "{:.3f} [{:.3f}, {:.3f}]".format(regret["iqm"], *regret["ci95"]))
    rows = result["sessions"][:6]
    table.add_row(
        "reward a step by session",
        ", ".join(f"{row['session']}: {row['reward_per_step']:.2f}" for row in rows),
    )
    if result["recovery"]["steps"] is not None:
        table.add_row("steps to recover after a switch", str(result["recovery"]["steps"]))
    for name, value in result.get("boundary", {}).items():
        scores = ["-" if value[key] is None else f"{value[key]:.2f}" for key in ("precision", "recall")]
        table.add_row(f"boundaries, {name}: precision, recall", ", ".join(scores))
    if belief := result.get("belief"):
        errors = {
            "posterior read off the belief": "readout_error",
            "posterior by the reward decoder": "decoded_error",
        }
        for title, name in errors.items():
            if name in belief:
                text = f"{belief[name]['iqm']:.3f} (knowing nothing: {belief['error_of_knowing_nothing']:.3f})"
                table.add_row(f"error of the {title}", text)
    Console().print(table)
