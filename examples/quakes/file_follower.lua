--- file_follower.lua LOG STATE DIRECTORY [PAUSE_AT]: follows a log into DIRECTORY/SHARD.jsonl, a line for each record.
---
--- The marks are in a state file. A follower that was killed between the writing of a line and the advance of the mark gets the record
--- again. Seqnos of a shard are 1, 2, 3, ..., so line n is record n, and the file itself tells what it has.

local uv = require "luv"
local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local progress = require "progress"

local log, path, directory, pause_at = arg[1], arg[2], arg[3], math.tointeger(tonumber(arg[4]))

local source = assert(Wal.source(log))
local state = assert(ReplicationState.open(path, source:shards()))
local progress_of = progress.new(state, pause_at)

-- Opens the file of a shard: its descriptor and how many whole lines it has. Half a line, of a killed write, is cut off.
local function open_sink(shard)
  local name = ("%s/%d.jsonl"):format(directory, shard)
  local lines, size = 0, 0
  for line in io.lines(name, "L") do
    if line:sub(-1) == "\n" then
      lines, size = lines + 1, size + #line
    end
  end
  local fd = assert(uv.fs_open(name, "a", 384)) -- 0600
  assert(uv.fs_ftruncate(fd, size))
  return { fd = fd, lines = lines }
end

local sinks = {}
for _, shard in ipairs(source:shards()) do
  io.open(("%s/%d.jsonl"):format(directory, shard), "a"):close()
  sinks[shard] = open_sink(shard)
end

local follower = assert(Follower.new {
  state = state,
  source = source,
  apply = function(batch)
    local sink, number = sinks[batch.shard], 0
    for seqno, record in batch:records() do
      if seqno > sink.lines then -- else it was written before the kill
        assert(uv.fs_write(sink.fd, record .. "\n"))
        sink.lines = seqno
      end
      number = number + 1
      progress_of.applying(number)
    end
    assert(uv.fs_fdatasync(sink.fd)) -- durable, before the mark says so
    return true
  end,
})

progress.run(follower, progress_of)
state:close()
