"""convergencectl: the small client of the daemon's control socket."""
