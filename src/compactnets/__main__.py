"""``python -m compactnets``: the command line, also for ``torchrun -m``."""

from compactnets_cli import main

main()
