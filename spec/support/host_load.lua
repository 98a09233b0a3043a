--- Load for the specs of hosts that share one state file among workers: many requests by wrk, and readers that see to it that no
--- mark goes back meanwhile.

local command_line = require "spec.support.command_line"
local ReplicationState = require "tidemark.replication_state"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local uv = require "luv"

local host_load = {}

-- Ends once all marks stand at `last` or above.
local WATCH = [[
  local uv = require "luv"
  local path, last = ...
  local state = assert(require("tidemark.replication_state").open(path, nil, { readonly = true }))
  local marks, looks, finished = state:snapshot(), 0, false
  print "ready"
  io.flush()
  while not finished do
    local now = state:snapshot()
    finished = true
    for shard, mark in pairs(now) do
      assert(mark >= marks[shard], ("shard %d went back from %d to %d"):format(shard, marks[shard], mark))
      finished = finished and mark >= math.tointeger(tonumber(last))
    end
    marks, looks = now, looks + 1
    uv.sleep(1)
  end
  print(looks)
]]

--- Starts a process that reads the marks of a state until all stand at `last`.
---@param path string
---@param last integer
---@return Child
function host_load.watch(path, last)
  local watcher = sandbox.start(WATCH, path, last)
  assert(watcher:read_line() == "ready")
  return watcher
end

--- Waits for its end; fails if it saw a mark go back or looked only a few times.
---@param watcher Child
function host_load.end_watch(watcher)
  local looks = assert(watcher:read_line(), "the watcher saw what it tells above")
  assert(tonumber(looks) > 100, "the watcher looked too seldom: " .. looks)
  assert(watcher:wait())
end

--- Starts wrk, whose 4 threads together advance each of the shards 0..3 to `quota` seqnos: first .. first + 3, then as many from
--- first + step on, and so on.
---@param url string what stands before /advance and /marks
---@param quota integer
---@param first integer
---@param query? string as advance.wrk.lua takes it
---@param step? integer default: 4, so without gaps
---@return Child
function host_load.start(url, quota, first, query, step)
  return sandbox.spawn { "wrk", "-t4", "-c32", "-d300s", "-s", "spec/hosts/advance.wrk.lua", url, "--", tostring(quota),
    tostring(step or 4), tostring(first), query }
end

--- Waits until all threads have all their answers.
---@param wrk Child
function host_load.complete(wrk)
  for count = 1, 4 do
    local line
    repeat
      line = wrk:read_line()
    until line == "complete" or not line
    assert(line, count .. " of 4 threads have all their answers")
  end
end

--- Ends it: what it printed. Fails if there was an answer that must not be.
---@param wrk Child
---@return string output
function host_load.finish(wrk)
  wrk:signal_with "sigint"
  local output = command_line.finish(wrk).out
  assert(not output:find "bad: ", output)
  return output
end

--- Waits until a mark is there.
---@param path string
function host_load.wait_for_mark(path, shard, seqno)
  local state = assert(ReplicationState.open(path, nil, { readonly = true }))
  assert(state:wait_for(shard, seqno, command_line.PATIENCE))
  state:close()
end

--- Fails unless the state has every mark that was acknowledged to wrk.
---@param path string
---@param output string what `finish` gave
function host_load.check_acknowledged(path, output)
  local state, count = assert(ReplicationState.open(path, nil, { readonly = true })), 0
  for shard, seqno in output:gmatch "acknowledged: (%d+):(%d+)" do
    count = count + 1
    assert(state:applied_seqno(math.tointeger(tonumber(shard))) >= math.tointeger(tonumber(seqno)), output)
  end
  state:close()
  assert(count == 4, output)
end

--- The mark that the checkpoint alone has, without the live file: what a power failure would leave. Nil before the first checkpoint.
---@param path string
---@param shard integer
---@return integer?
function host_load.durable_mark(path, shard)
  local copy = path .. ".copy"
  assert(shell.run(("rm -f '%s' && cp '%s' '%s'"):format(copy, path, copy)))
  local state = ReplicationState.open(copy, nil, { readonly = true })
  local mark = state and state:applied_seqno(shard)
  if state then
    state:close()
  end
  return mark
end

--- How many descriptors a process has on the files of a state.
---@param pid integer
---@param path string
---@return integer
function host_load.descriptors(pid, path)
  local count = 0
  for name in uv.fs_scandir_next, uv.fs_scandir(("/proc/%d/fd"):format(pid)) do
    local target = uv.fs_readlink(("/proc/%d/fd/%s"):format(pid, name))
    if target == path or target == path .. ".live" then
      count = count + 1
    end
  end
  return count
end

return host_load
