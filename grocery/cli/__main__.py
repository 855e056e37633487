"""``python -m grocery.cli`` is the `grocery` command."""

from grocery.cli import main

main()
