--- The log of a leader: a directory of segments that one writer appends to and any number of readers follow. The class is in C
--- (docs/meta/wal.lua describes it); this adds what needs no C: the heads, and the directory as a source of followers.

local core = require "tidemark.core"
local ReplicationState = core.ReplicationState

local Wal = core.Wal

local LOOK_AGAIN = 0.05 -- seconds between looks at whether the heads are still the files on disk
local SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.005 -- seconds between polls

-- Raises in the name of who called the function `name`.
local function check_directory(name, directory)
  if type(directory) ~= "string" then
    error(("bad argument #1 to '%s' (string expected, got %s)"):format(name, type(directory)), 3)
  end
end

--- The heads of the log in `directory`: per shard the last seqno that is durable. A state that only follows.
---@param directory string
---@return tidemark.ReplicationState? heads
---@return string? message
---@return tidemark.ErrorCode? code
function Wal.heads(directory)
  check_directory("heads", directory)
  return ReplicationState.open(directory .. "/heads", nil, { readonly = true })
end

---@class tidemark.WalSource : tidemark.Source
---@field private directory string
---@field private heads tidemark.ReplicationState
---@field private looked_at number
local Source = {}
Source.__index = Source

-- Whether the log whose heads these are is complete: true, or nil, message, code. A writer that makes a log adds its shards and only then
-- names it, in a note.
local function check_made(heads, directory)
  for _, shard in ipairs(heads:shards()) do
    local note, message, code = heads:note(shard)
    if note then
      return true
    elseif code then
      return nil, message, code
    end
  end
  return nil, directory .. ": there is no log in it yet: its writer is just making it, or was cut off as it did", "NOT_FOUND"
end

--- The log in `directory` as the source of a follower.
---@param directory string
---@return tidemark.WalSource? source
---@return string? message
---@return tidemark.ErrorCode? code
function Wal.source(directory)
  check_directory("source", directory)
  local heads, message, code = Wal.heads(directory)
  if not heads then
    return nil, code == "NOT_FOUND" and directory .. ": there is no log" or message, code
  end
  local made
  made, message, code = check_made(heads, directory)
  if not made then
    heads:close()
    return nil, message, code
  end
  return setmetatable({ directory = directory, heads = heads, looked_at = core.clock.now() }, Source)
end

---@param shard integer
---@param after_seqno integer
---@return tidemark.WalReader? subscription
---@return string? message
---@return tidemark.ErrorCode? code
function Source:subscribe(shard, after_seqno)
  return Wal.reader(self.directory, shard, after_seqno)
end

-- After a restart of the machine, and when they are replaced, the heads that are open no longer move.
function Source:refresh()
  local now = core.clock.now()
  if now - self.looked_at < LOOK_AGAIN then
    return
  end
  self.looked_at = now
  if not self.heads:is_current() then
    local heads = Wal.heads(self.directory)
    if heads then
      self.heads:close()
      self.heads = heads
    end
  end
end

--- The last durable seqno of the shard, nil for a shard that the log does not have.
---@param shard integer
---@return integer? head
function Source:head(shard)
  self:refresh()
  return self.heads:applied_seqno(shard)
end

--- The shards of the log, ascending.
---@return integer[]
function Source:shards()
  self:refresh()
  return self.heads:shards()
end

--- Sleeps until some shard's head is above `marks[shard]`, `timeout` seconds at most. Blocks the OS thread.
---@param marks table<integer, integer>
---@param timeout number seconds
---@return boolean moved
function Source:wait(marks, timeout)
  local clock = core.clock
  local deadline, pause = clock.now() + timeout, SHORTEST_PAUSE
  while true do
    self:refresh()
    for shard, mark in pairs(marks) do
      if (self.heads:applied_seqno(shard) or 0) > mark then
        return true
      end
    end
    local left = deadline - clock.now()
    if left <= 0 then
      return false
    end
    clock.sleep(math.min(pause, left))
    pause = math.min(pause * 2, LONGEST_PAUSE)
  end
end

--- Idempotent; later use raises. Subscriptions stay open.
function Source:close()
  self.heads:close()
end

Source.__close = Source.close

return Wal
