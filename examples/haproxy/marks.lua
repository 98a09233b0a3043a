--- The marks of a state file in HAProxy: read, advanced and routed by, from all of its threads. `lua-load-per-thread` runs this
--- file in each thread's own lua_State, with Lua 5.3; see haproxy.cfg and README.md.

local ReplicationState = require "tidemark.replication_state" -- now: after a chroot there may be no such file

local PATH = assert(os.getenv "TIDEMARK_STATE", "TIDEMARK_STATE is not set: the path of the state file")
local SHARDS = { 0, 1, 2, 3 } -- further ones that the file has are there as well
local CHECKPOINT_SECONDS = 1

local state -- of this thread, once it is open

-- Opens the state: at the first use, in the worker. This file, and core.register_init too, run before the workers are forked,
-- and an open state does not go over a fork.
local function open_state()
  local message
  if not state then
    state, message = ReplicationState.open(PATH, SHARDS)
  end
  return state, message
end

core.register_task(open_state) -- so that no request waits for it

-- Shard and seqno of "0:42"; nil where they are no decimal numbers or out of range.
local function parse(token)
  local shard, seqno = token:match "^(%d+):(%d+)$"
  shard, seqno = math.tointeger(tonumber(shard or "")), math.tointeger(tonumber(seqno or ""))
  if shard and shard <= 65535 and seqno then
    return shard, seqno
  end
end

-- ---- services ----

-- Registers a service; `serve(state, applet)` returns status, body and content type.
local function register_service(name, serve)
  core.register_service(name, "http", function(applet)
    local opened, message = open_state()
    local status, body, content_type = 503, message
    if opened then
      status, body, content_type = serve(opened, applet)
    end
    body = body .. "\n"
    applet:set_status(status)
    applet:add_header("content-type", content_type or "text/plain")
    applet:add_header("content-length", #body)
    applet:start_response()
    applet:send(body)
  end)
end

-- POST /advance?0:42
register_service("tidemark_advance", function(opened, applet)
  local shard, seqno = parse(applet.qs)
  if not shard then
    return 400, "expected shard:seqno"
  end
  local moved, message = opened:advance(shard, seqno)
  if moved == nil then
    return 404, message
  end
  return 200, ('{"shard":%d,"seqno":%d,"moved":%s,"mark":%d,"thread":%d}'):format(
    shard, seqno, moved, opened:applied_seqno(shard), core.thread), "application/json"
end)

register_service("tidemark_marks", function(opened)
  return 200, opened:to_checkpoint_bytes(), "application/json"
end)

register_service("tidemark_metrics", function(opened)
  local lines = {
    "# HELP tidemark_applied_seqno Every record of the shard up to this seqno has been applied.",
    "# TYPE tidemark_applied_seqno gauge",
  }
  for shard, mark in pairs(opened) do
    lines[#lines + 1] = ('tidemark_applied_seqno{shard="%d"} %d'):format(shard, mark)
  end
  return 200, table.concat(lines, "\n"), "text/plain; version=0.0.4; charset=utf-8"
end)

-- ---- read your writes ----

-- Sets txn.route: "follower" if it has applied all that the X-Tidemark headers name, "malformed", else "leader".
core.register_action("tidemark_route", { "http-req" }, function(txn)
  local opened = open_state()
  local route = opened and "follower" or "leader"
  local values = txn.http:req_get_headers()["x-tidemark"] or {}
  for i = 0, values[0] and #values or -1 do -- HAProxy counts them from 0
    for token in (values[i] .. ","):gmatch "[ \t]*(.-)[ \t]*," do
      local shard, seqno = parse(token)
      if not shard then
        txn:set_var("txn.route", "malformed")
        return
      end
      if not opened or (opened:applied_seqno(shard) or -1) < seqno then
        route = "leader" -- also for a shard that is not tracked here
      end
    end
  end
  txn:set_var("txn.route", route)
end)

-- ---- checkpoints ----

-- In one thread, which stands still for an fdatasync each time.
if core.thread == 1 then
  core.register_task(function()
    local saved
    while true do
      core.sleep(CHECKPOINT_SECONDS)
      local opened, message = open_state()
      local marks = opened and opened:to_checkpoint_bytes()
      if opened and marks ~= saved then
        local ok
        ok, message = opened:checkpoint()
        saved = ok and marks or nil
      end
      if message then
        core.Alert("tidemark: " .. message)
      end
    end
  end)
end
