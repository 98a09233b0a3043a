--- The marks of a state file in lighttpd: read and advanced from all of its workers. mod_magnet runs this file for each request;
--- see lighttpd.conf and README.md.

local ReplicationState = require "tidemark.replication_state"

local PATH = assert(os.getenv "TIDEMARK_STATE", "TIDEMARK_STATE is not set: the path of the state file")
local SHARDS = { 0, 1, 2, 3 } -- further ones that the file has are there as well

local request = lighty.r.req_attr

-- Ends the request: `return answer(...)`.
local function answer(status, content_type, body)
  lighty.r.resp_header["Content-Type"] = content_type
  lighty.r.resp_body:set(body .. "\n")
  return status
end

-- What this file makes global is gone after the request. What must stay goes into _G, which each worker has for itself: so the
-- state is opened at a worker's first request, after the fork.
local state = _G.tidemark_state
if not state then
  local message
  state, message = ReplicationState.open(PATH, SHARDS)
  if not state then
    return answer(503, "text/plain", message)
  end
  _G.tidemark_state = state
end

-- The decimal number `text`, or nil where it is none from 0 to `max`.
local function number(text, max)
  local value = math.tointeger(tonumber((text or ""):match "^%d+$"))
  return value and value <= max and value or nil
end

local function advance()
  local query = lighty.c.urldec_query(request["uri.query"] or "")
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

local method, path = request["request.method"], request["uri.path"]
if method == "POST" and path == "/advance" then
  return advance()
elseif method == "GET" and path == "/marks" then
  return answer(200, "application/json", state:to_checkpoint_bytes())
elseif method == "GET" and path == "/metrics" then
  return metrics()
end
return answer(404, "text/plain", "try /marks, /metrics, or POST /advance?shard=0&seqno=1")
