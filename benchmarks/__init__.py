"""Speed and memory as ratios against named baselines; `python -m benchmarks` runs them all."""
