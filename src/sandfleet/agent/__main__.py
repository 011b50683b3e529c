"""`python -m sandfleet.agent`."""

from sandfleet.agent.main import main

main()
