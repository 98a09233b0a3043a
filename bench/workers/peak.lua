--- Follows a log to its end and prints the peak of this process's memory, in KiB: peak.lua LOG LAST_SEQNO BYTES, where BYTES are those of
--- all records.

local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local follow_log = require "bench.workers.follow_log"

local log, last_seqno, wanted = arg[1], math.tointeger(tonumber(arg[2])), math.tointeger(tonumber(arg[3]))
local bytes = 0
local target = StateTarget.new {
  state = ReplicationState.single(),
  apply = function(batch)
    for _, record in batch:records() do
      bytes = bytes + #record
    end
    return true
  end,
}
follow_log(log, target, last_seqno)
assert(bytes == wanted, "not every record came")
for line in io.lines "/proc/self/status" do
  local peak = line:match "^VmHWM:%s*(%d+) kB"
  if peak then
    print(peak)
  end
end
