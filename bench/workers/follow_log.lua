--- Follows a log from its beginning to a seqno: what the benches of followers have in common.

local Follower = require "tidemark.follower"
local Wal = require "tidemark.wal"

---@param log string a directory
---@param target tidemark.Target
---@param count integer the last seqno of shard 0
return function(log, target, count)
  local source, state = assert(Wal.source(log)), target:state()
  local follower = assert(Follower.new { target = target, source = source })
  while state:applied_seqno(0) < count do
    assert(follower:step(1) > 0, "the log ends too early")
  end
  follower:stop()
  follower:close()
  source:close()
end
