--- How a follower of the demo tells what it has applied, and waits to be killed.

local uv = require "luv"

local progress = {}

--- Prints the process id, for who is to kill it, and counts from the marks of `state`.
---@param state tidemark.ReplicationState
---@param pause_at integer? the count of applied records at which to wait to be killed
function progress.new(state, pause_at)
  io.stdout:setvbuf "line"
  print(("pid\t%d"):format(uv.os_getpid()))
  local self = {}

  local function committed()
    local sum = 0
    for _, mark in pairs(state) do
      sum = sum + mark
    end
    return sum
  end

  -- To be called in the middle of a batch, for each record: `number` counts within the batch.
  function self.applying(number)
    if committed() + number == pause_at then
      print("reached", pause_at)
      while true do
        uv.sleep(1000)
      end
    end
  end

  -- To be called between two batches.
  function self.show()
    print("applied", committed())
  end

  self.show()

  return self
end

--- Applies all that the log holds now, and prints "done" with the numbers of batches applied and skipped.
---@param follower tidemark.Follower
---@param progress_of table
function progress.run(follower, progress_of)
  local behind = true
  while behind do
    assert(follower:step(1))
    progress_of.show()
    behind = false
    for _, shard in pairs(follower:status()) do
      behind = behind or shard.lag > 0
    end
  end
  follower:stop()
  local applied, skipped = 0, 0
  for _, shard in pairs(follower:status()) do
    applied, skipped = applied + shard.batches_applied, skipped + shard.batches_skipped
  end
  print("done", applied, skipped)
end

return progress
