--- The marks of a state file in Prosody: read and advanced over HTTP; see README.md.

local ReplicationState = require "tidemark.replication_state"
local formdecode = require "util.http".formdecode

module:set_global()
module:depends "http"

local PATH = assert(module:get_option_string "tidemark_state", "tidemark_state is not set: the path of the state file")
local SHARDS = module:get_option_array("tidemark_shards", { 0 })
local CHECKPOINT_SECONDS = module:get_option_number("tidemark_checkpoint_seconds", 1)

local state -- once it is open
local saved -- the marks of the last checkpoint

-- Opens the state at its first use, which is after Prosody may have forked to go into the background (`prosody -D`): modules are
-- loaded before that, and an open state does not go over a fork.
local function open_state()
  local message
  if not state then
    state, message = ReplicationState.open(PATH, SHARDS)
  end
  return state, message
end

-- ---- HTTP ----

local function answer(status, content_type, body)
  return { status_code = status, headers = { content_type = content_type }, body = body .. "\n" }
end

-- A handler of mod_http that calls `serve(event)` with the state open.
local function served(serve)
  return function(event)
    local opened, message = open_state()
    if not opened then
      return answer(503, "text/plain", message)
    end
    return serve(event)
  end
end

-- The decimal number `text`, or nil where it is none from 0 to `max`.
local function number(text, max)
  local value = math.tointeger(tonumber((text or ""):match "^%d+$"))
  return value and value <= max and value or nil
end

local function advance(event)
  local query = formdecode(event.request.url.query or "")
  if type(query) ~= "table" then -- a query without "=" comes back as a string
    query = {}
  end
  local shard, seqno = number(query.shard, 65535), number(query.seqno, math.maxinteger)
  if not shard or not seqno then
    return answer(400, "text/plain", "expected shard=0..65535&seqno=0..2^63-1")
  end
  local moved, message = state:advance(shard, seqno)
  if moved == nil then
    return answer(404, "text/plain", message)
  end
  return answer(200, "application/json",
    ('{"shard":%d,"seqno":%d,"moved":%s,"mark":%d}'):format(shard, seqno, moved, state:applied_seqno(shard)))
end

local function marks()
  return answer(200, "application/json", state:to_checkpoint_bytes())
end

local function metrics()
  local lines = {
    "# HELP tidemark_applied_seqno Every record of the shard up to this seqno has been applied.",
    "# TYPE tidemark_applied_seqno gauge",
  }
  for shard, mark in pairs(state) do
    lines[#lines + 1] = ('tidemark_applied_seqno{shard="%d"} %d'):format(shard, mark)
  end
  return answer(200, "text/plain; version=0.0.4; charset=utf-8", table.concat(lines, "\n"))
end

module:provides("http", {
  default_path = "/tidemark",
  cors = { enabled = false }, -- no page of another site may read the answers, as it may by default
  route = {
    ["POST /advance"] = served(advance),
    ["GET /marks"] = served(marks),
    ["GET /metrics"] = served(metrics),
  },
})

-- ---- checkpoints ----

-- Everybody waits meanwhile: Prosody has one thread, and this is one fdatasync.
local function checkpoint()
  local opened, message = open_state()
  local now = opened and opened:to_checkpoint_bytes()
  if opened and now ~= saved then
    local ok
    ok, message = opened:checkpoint()
    saved = ok and now or nil
  end
  if message then
    module:log("error", "%s", message)
  end
  return CHECKPOINT_SECONDS -- until the next one
end

module:add_timer(0, checkpoint)
module:hook("server-stopping", checkpoint)

-- As a module is reloaded, too; then its new self opens the state again.
function module.unload()
  checkpoint()
  if state then
    state:close()
  end
end
