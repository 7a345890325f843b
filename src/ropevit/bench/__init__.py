"""Benchmarks of rotary attention: every backend of this package against other libraries, in one table."""

from ropevit.bench.config import BenchConfig
from ropevit.bench.runner import run_bench

__all__ = ["BenchConfig", "run_bench"]
