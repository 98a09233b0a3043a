--- Follows a log from its beginning to a seqno: what the benches of followers have in common.

local Follower = require "tidemark.follower"
local Wal = require "tidemark.wal"

---@param log string a directory
---@param state tidemark.ReplicationState
---@param count integer the last seqno of shard 0
---@param apply fun(batch: tidemark.Batch): true?, string?, string?
return function(log, state, count, apply)
  local source = assert(Wal.source(log))
  local follower = assert(Follower.new { state = state, source = source, apply = apply })
  while state:applied_seqno(0) < count do
    assert(follower:step(1) > 0, "the log ends too early")
  end
  follower:stop()
  follower:close()
  source:close()
end
