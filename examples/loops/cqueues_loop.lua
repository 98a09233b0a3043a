--- Sessions in a cqueues loop, each a coroutine that waits for a mark, while an applier in the same loop advances it.

local ReplicationState = require "tidemark.replication_state"
local cqueues = require "cqueues"

local state = ReplicationState.new { 0, 1 }
local loop = cqueues.new()

-- Lets other coroutines run until the mark of `shard` is `seqno` or above, at most `timeout` seconds: whether it is.
local function wait(shard, seqno, timeout)
  local watch = assert(state:watch(shard, seqno))
  if not watch:ready() then
    cqueues.poll({ pollfd = assert(watch:fd()), events = "r" }, timeout)
    loop:cancel(watch:fd()) -- it must not keep a descriptor that is closed
  end
  local ready = watch:ready()
  watch:close()
  return ready
end

for session = 1, 6 do
  loop:wrap(function()
    local shard, seqno = session % 2, session * 10
    assert(wait(shard, seqno))
    print(("session %d: shard %d is at %d, which is enough for %d"):format(session, shard, state:applied_seqno(shard), seqno))
  end)
end

loop:wrap(function()
  print("in time: " .. tostring(wait(0, 1000, 0.01)))
end)

-- The applier: 15 records of each shard at a time.
loop:wrap(function()
  while state:applied_seqno(1) < 60 do
    for shard, mark in pairs(state) do
      state:advance(shard, mark + 15)
    end
    cqueues.sleep(0.001)
  end
end)

assert(loop:loop())
state:close()
