std = "max"
max_line_length = 140
files["spec"] = { std = "max+busted" }
files["docs/meta"] = { ignore = { "212" } } -- declarations without bodies
files["examples/haproxy"] = { read_globals = { "core" } }
files["examples/lighttpd"] = { read_globals = { "lighty" } }
files["examples/prosody"] = { globals = { "module" } }
