"""What a version that is promoted may be like. The bad ones show it before the time of a canary is over."""

GOOD = "good"
UNBOOTABLE, LAME, DEAF = "never comes up", "starts nothing", "runs nothing"
FAINT = "falls silent"
KINDS = (GOOD, GOOD, GOOD, UNBOOTABLE, LAME, DEAF, FAINT)
