"""Write docs/benchmarks.md from benchmarks/results/model.json.

python benchmarks/bench_model.py --out benchmarks/results/model.json
python scripts/write_benchmarks.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
PUBLISHED = {
    "guided at every step": "54-56 %",
    "guided in (0.4, 1]": "53-57 %",
    "no guidance": "56-58 %",
}
"""Share of GEMM peak of the published code at the same sizes, two series of runs on two CPU threads."""


def main() -> None:
    results = json.loads((ROOT / "benchmarks/results/model.json").read_text(encoding="utf-8"))
    where, sizes = results["environment"], results["sizes"]
    lines = [
        "# Benchmarks",
        "",
        "Made by `python benchmarks/bench_model.py --out benchmarks/results/model.json` and",
        "`python scripts/write_benchmarks.py`. Seconds depend on the machine and on what else it does; the shares are of limits",
        "that were measured in the same run, before and after each case.",
        "",
        f"{where['processor']}, {where['threads']} threads, Python {where['python']}, torch {where['torch']}, transformers",
        f"{where['transformers']}, unix_cxr {where['unix_cxr']} at {where['commit']}. Hidden {sizes['hidden']}, {sizes['layers']} layers,",
        f"{sizes['latent_tokens']} latent tokens, {sizes['prompt_tokens']} prompt tokens, {sizes['steps']} Euler steps, float32, batch 1.",
        "",
        "## Drawing",
        "",
        "| case | passes | GFLOP | seconds per image | share of GEMM peak | the published code |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['passes']} | {row['gflop']} | {row['median_s']} | "
        f"{row['share_of_gemm_peak']:.0%} of {row['gemm_gflops']:.0f} GFLOP/s | {PUBLISHED[name]} |"
        for name, row in results["drawing"].items()
    ]
    lines += [
        "",
        "The context of the prompt is computed once and counted once. The published code computes it once too, but copies it for",
        "each pass. Operations are counted densely: projections, feed-forward layers and attention of every row.",
        "",
        "## Writing a report",
        "",
        "After a 578-token image and a prompt, greedy, with a cache. The limit is the time to read all weights and the cache once per",
        "step at the speed of a memory copy.",
        "",
        "| batch | ms per step | ms per token | bare language model, ms per step | ratio | share of copy bandwidth |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['batch']} | {row['ms_per_step']} | {row['ms_per_token']} | "
        f"{row['bare_language_model_ms_per_step']} | {row['ratio_to_bare']:.2f} | "
        f"{row['share_of_bandwidth']:.0%} of {row['copy_gigabytes_per_s']} GB/s |"
        for row in results["writing"]
    ]
    lines += [
        "",
        "The published code took 21-25 ms per token at batch 1, 1.8 % of its GEMM peak, and its batched decoding stops when the first",
        "report ends.",
        "",
    ]
    (ROOT / "docs/benchmarks.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
