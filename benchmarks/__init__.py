"""Speed and memory as ratios to named baselines; `python -m benchmarks` runs most of them with their defaults."""
