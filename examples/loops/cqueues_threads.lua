--- Four cqueues threads, each with a lua_State of its own, advance one state file; the main loop looks on without blocking.
--- Usage: cqueues_threads.lua PATH

local ReplicationState = require "tidemark.replication_state"
local cqueues = require "cqueues"
local thread = require "cqueues.thread"

local path = assert(arg[1], "usage: cqueues_threads.lua PATH")
local LAST = 20000

-- Runs in a thread; the first argument is its end of a socket to the one that started it.
local function work(_, file, shard, last)
  shard, last = math.tointeger(tonumber(shard)), math.tointeger(tonumber(last))
  local state = assert(require("tidemark.replication_state").open(file, {}))
  local advance = assert(state:bind(shard))
  for seqno = 1, last do
    advance(seqno) -- once the record is durably applied
  end
  assert(state:checkpoint())
  state:close()
end

local state = assert(ReplicationState.open(path, { 0, 1, 2, 3 }))
local loop = cqueues.new()
local threads = {}
for shard = 0, 3 do
  threads[shard] = assert(thread.start(work, path, tostring(shard), tostring(LAST)))
  loop:wrap(function()
    local watch = assert(state:watch(shard, LAST))
    while not watch:ready() do
      cqueues.sleep(0.005) -- a state with files has no descriptor to poll
    end
    print(("shard %d is at %d"):format(shard, state:applied_seqno(shard)))
    watch:close()
  end)
end
assert(loop:loop())

for shard = 0, 3 do
  assert(threads[shard]:join())
end
print(state:to_checkpoint_bytes())
state:close()
