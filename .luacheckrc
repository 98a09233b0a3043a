std = "max"
max_line_length = 140
files["spec"] = { std = "max+busted" }
files["docs/meta"] = { ignore = { "212" } } -- declarations without bodies
files["examples/haproxy"] = { read_globals = { "core" } }
files["examples/lighttpd"] = { globals = { "lighty" } }
files["examples/prosody/modules"] = { globals = { "module" } }
exclude_files = { "examples/prosody/prosody.cfg.lua" } -- all its names are Prosody's
