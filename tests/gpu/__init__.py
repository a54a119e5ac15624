"""A GPU played by the CPU, on which every recipe trains a few steps: `tests/test_gpu.py`."""
