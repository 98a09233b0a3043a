--- Sessions in a luv loop that each wait for a mark, while an applier in the same loop advances it.

local ReplicationState = require "tidemark.replication_state"
local uv = require "luv"

local state = ReplicationState.new { 0, 1 }

-- Calls `done` once the mark of `shard` is `seqno` or above.
local function when(shard, seqno, done)
  local watch = assert(state:watch(shard, seqno))
  if watch:ready() then
    watch:close()
    return done()
  end
  local poll = assert(uv.new_poll(assert(watch:fd())))
  assert(poll:start("r", function()
    if watch:ready() then
      poll:stop()
      poll:close()
      watch:close() -- only now: luv must no longer have the descriptor
      done()
    end
  end))
end

for session = 1, 6 do
  local shard, seqno = session % 2, session * 10
  when(shard, seqno, function()
    print(("session %d: shard %d is at %d, which is enough for %d"):format(session, shard, state:applied_seqno(shard), seqno))
  end)
end

-- The applier: 15 records of each shard at a time.
local applier = uv.new_timer()
applier:start(0, 1, function()
  for shard, mark in pairs(state) do
    state:advance(shard, mark + 15)
  end
  if state:applied_seqno(1) >= 60 then
    applier:close()
  end
end)

uv.run() -- until the last session has gone
state:close()
