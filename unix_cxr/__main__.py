"""`python -m unix_cxr` is `unix-cxr`; torchrun starts it as `torchrun -m unix_cxr`."""

from unix_cxr.cli import main

main()
