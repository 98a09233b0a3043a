--- The log of a leader: a directory of segments that one writer appends to and any number of readers follow. The class is in C
--- (docs/meta/wal.lua describes it); this adds what needs no C.

local core = require "tidemark.core"

local Wal = core.Wal

--- The heads of the log in `directory`: per shard the last seqno that is durable. A state that only follows.
---@param directory string
---@return tidemark.ReplicationState? heads
---@return string? message
---@return tidemark.ErrorCode? code
function Wal.heads(directory)
  if type(directory) ~= "string" then
    error(("bad argument #1 to 'heads' (string expected, got %s)"):format(type(directory)), 2)
  end
  return core.ReplicationState.open(directory .. "/heads", nil, { readonly = true })
end

return Wal
