--- tidemark follow took records of another log into a state file, in a shard of which it had nothing, if that log did not have the shards
--- of which the state had something: only the shards of the log were followed. Afterwards neither log could go on.

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
end)
