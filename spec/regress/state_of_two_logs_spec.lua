--- A state file that follows one log took the records of another one, in the shards of which it had nothing: a shard without a note was
--- taken to be free, although the notes of other shards name the log. Afterwards the state belonged to no log, and neither could go on.

local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"

local run, expect = command_line.run, command_line.expect

describe("a state file that has records of one log", function()
  local directory

  before_each(function()
    directory = sandbox.tempdir()
  end)

  teardown(sandbox.cleanup)

  -- Makes a log whose records are `name` and the shard, in `filled` of its shards.
  local function make_log(name, shards, filled)
    local log = directory .. "/" .. name
    local wal = assert(Wal.open(log, { shards = shards }))
    for _, shard in ipairs(filled) do
      assert(wal:append(shard, { name .. shard }))
    end
    assert(wal:close())
    return log
  end

  local function follow(log)
    return run("follow", log, "--state", directory .. "/state", "--print", "--once")
  end

  it("refuses a log that has only shards of which it has nothing", function()
    local first = make_log("first", { 0, 1 }, { 1 })
    local second = make_log("second", { 0 }, { 0 })
    expect(0, follow(first))
    local result = follow(second)
    assert.equal("", result.out)
    assert.equal(3, result.code, result.err)
    assert.truthy(result.err:find("(FOREIGN)", 1, true), result.err)
    assert.equal(3, run("status", directory .. "/state", "--log", second).code)
    expect(0, follow(first)) -- and goes on with its own
  end)

  it("refuses the other log in a follower of some of its shards", function()
    local logs = { [0] = make_log("first", { 0, 1 }, { 0, 1 }), make_log("second", { 0, 1 }, { 0, 1 }) }
    local records = {}
    for shard = 0, 1 do
      local state = assert(ReplicationState.open(directory .. "/state", { 0, 1 }))
      local source = assert(Wal.source(logs[shard]))
      local follower = assert(Follower.new {
        state = state,
        source = source,
        shards = { shard },
        apply = function(batch)
          records[#records + 1] = batch:record(1)
          return true
        end,
      })
      follower:step(0)
      assert.equal(shard == 0 and "ok" or "foreign", follower:verdict(shard))
      follower:stop()
      follower:close()
      state:close()
      source:close()
    end
    assert.same({ "first0" }, records)
  end)
end)
