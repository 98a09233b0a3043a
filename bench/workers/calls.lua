--- Calls from Lua as contenders: ReplicationState, an empty C method, a plain Lua class. The loops are alike, and counted with what
--- they call.

local ReplicationState = require "tidemark.replication_state"
local PlainClass = require "bench.peers.plain_class"
local new_empty = require "empty"
local serve = require "bench.workers.serve"

local SHARDS = {}
for shard = 0, 15 do
  SHARDS[#SHARDS + 1] = shard
end

local cases = {}

-- `object:advance(shard, seqno)`, rising.
local function calls_advance(object)
  local seqno = 0
  return function(count)
    for n = seqno + 1, seqno + count do
      object:advance(7, n)
    end
    seqno = seqno + count
  end
end

local function calls_stale(object)
  object:advance(7, 1)
  return function(count)
    for _ = 1, count do
      object:advance(7, 1)
    end
  end
end

local function calls_applied_seqno(object)
  return function(count)
    for _ = 1, count do
      object:applied_seqno(7)
    end
  end
end

cases.advance = calls_advance(ReplicationState.new(SHARDS))
cases.empty = calls_advance(new_empty())
cases.class_advance = calls_advance(PlainClass.new(SHARDS))
cases.stale = calls_stale(ReplicationState.new(SHARDS))
cases.class_stale = calls_stale(PlainClass.new(SHARDS))
cases.applied_seqno = calls_applied_seqno(ReplicationState.new(SHARDS))
cases.class_applied_seqno = calls_applied_seqno(PlainClass.new(SHARDS))

local bound_seqno = 0
local bound_advance, bound_applied = ReplicationState.new(SHARDS):bind(7)

function cases.bound_advance(count)
  local advance = bound_advance
  for n = bound_seqno + 1, bound_seqno + count do
    advance(n)
  end
  bound_seqno = bound_seqno + count
end

function cases.bound_applied(count)
  local applied = bound_applied
  for _ = 1, count do
    applied()
  end
end

serve(cases)
