--- Follows a log for ever, with its marks in a state file: follow_live.lua LOG MARKS. After each step prints the mark and the time in
--- seconds, by the monotonic clock.

local uv = require "luv"
local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"

local state = assert(ReplicationState.open(arg[2], { 0 }))
local follower = assert(Follower.new {
  state = state,
  source = assert(Wal.source(arg[1])),
  apply = function()
    return true
  end,
})
io.stdout:setvbuf "line"
while true do
  if assert(follower:step(60)) > 0 then
    local time = uv.hrtime()
    print(("%d %d.%09d"):format(state:applied_seqno(0), time // 1000000000, time % 1000000000))
  end
end
