"""`python -m spendgate_daemon.cli`: how the parts are started by `spendgate up`."""

from spendgate_daemon.cli import main

main()
