-- tidemark in Prosody: see README.md. These are in the environment: EXAMPLE, this directory; TIDEMARK_STATE, the path of
-- the state file; DATA, a directory of this process alone; HTTP_PORT; and, to try it out as root, RUN_AS_ROOT=true.

plugin_paths = { ENV_EXAMPLE .. "/modules" } -- absolute, for Prosody goes into data_path
modules_enabled = { "posix", "tidemark" }
modules_disabled = { "c2s", "s2s" } -- here it serves HTTP only

tidemark_state = ENV_TIDEMARK_STATE
tidemark_shards = { 0, 1, 2, 3 } -- further ones that the file has are there as well
tidemark_checkpoint_seconds = 1

-- Not for clients: who can reach it can move marks.
http_interfaces = { "127.0.0.1" }
http_ports = { ENV_HTTP_PORT }
https_ports = {}

data_path = ENV_DATA
pidfile = ENV_DATA .. "/prosody.pid"
certificates = ENV_DATA
log = { info = "*console" }
run_as_root = ENV_RUN_AS_ROOT

VirtualHost "localhost"
