--- Four luv threads, each with a lua_State of its own, advance one state file; the main loop looks on without blocking.
--- Usage: luv_threads.lua PATH

local ReplicationState = require "tidemark.replication_state"
local uv = require "luv"

local path = assert(arg[1], "usage: luv_threads.lua PATH")
local LAST = 20000

-- Runs in a thread. luv turns integer arguments into floats, so numbers come as strings; an error here ends the process.
local function work(file, shard, last)
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
local watches, threads = {}, {}
for shard = 0, 3 do
  watches[shard] = assert(state:watch(shard, LAST))
  threads[shard] = assert(uv.new_thread(work, path, tostring(shard), tostring(LAST)))
end

-- A state with files has no descriptor to poll, so a timer asks.
local timer = uv.new_timer()
timer:start(0, 5, function()
  for shard, watch in pairs(watches) do
    if watch:ready() then
      print(("shard %d is at %d"):format(shard, state:applied_seqno(shard)))
      watch:close()
      watches[shard] = nil
    end
  end
  if next(watches) == nil then
    timer:close()
  end
end)
uv.run()

for shard = 0, 3 do
  threads[shard]:join()
end
print(state:to_checkpoint_bytes())
state:close()
