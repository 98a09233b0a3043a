--- Files of a log were changed under a running reader or follower, and it saw too little of it: a log that was restored from a copy and
--- written again up to the follower's position looked the same, and a segment that the next writer had put a copy in the place of was
--- still read, with what the earlier writer wrote into it and never acknowledged.

local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local clock = require("tidemark.core").clock
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

describe("a follower", function()
  local directory, applied, follower

  before_each(function()
    directory, applied = log.new(), {}
  end)
  after_each(log.close)
  teardown(sandbox.cleanup)

  local function write(...)
    local wal = assert(Wal.open(directory, { shards = { 0 } }))
    assert(wal:append(0, { ... }))
    assert(wal:close())
  end

  local function follow()
    local state = log.keep(ReplicationState.single())
    follower = log.keep(assert(Follower.new {
      state = state,
      source = log.keep(assert(Wal.source(directory))),
      apply = function(batch)
        for _, record in batch:records() do
          applied[#applied + 1] = record
        end
        return true
      end,
    }))
    while follower:step(0) > 0 do end
  end

  -- Steps until the shard is not as before, or a time has passed in which it must have looked.
  local function step_until(done)
    local deadline = clock.now() + 60
    while not done(follower:status()[0]) do
      assert(clock.now() < deadline, "not in time")
      follower:step(0.01)
    end
  end

  for how, command in pairs {
    ["other files"] = "rm '%s'/* && cp -r '%s.copy/.' '%s/'",
    ["the same files"] = "rm '%s'/*.wal && cp -r '%s.copy/.' '%s/'",
    ["another directory"] = "rm -r '%s' && cp -r '%s.copy' '%s'",
  } do
    it("notices that its log was restored and written again up to its position, as " .. how, function()
      write "one"
      assert(shell.run(("cp -r '%s' '%s.copy'"):format(directory, directory)))
      write "two"
      write("three", "four")
      follow()
      assert.same({ "ok", 4 }, { follower:verdict(0), follower:status()[0].applied })
      assert(shell.run(command:format(directory, directory, directory)))
      write("other two", "other three", "other four")
      step_until(function(status)
        return status.state ~= "live"
      end)
      assert.same({ "diverged", 1 }, { follower:verdict(0) })
      assert.same({ "one", "two", "three", "four" }, applied)
    end)
  end

  it("reads nothing that a writer without its lock still writes", function()
    local first = assert(Wal.open(directory, { shards = { 0 }, sync = false }))
    assert(first:append(0, { "one", "two" }))
    assert(first:sync())
    follow()
    assert(os.remove(directory .. "/lock"))
    local second = log.keep(assert(Wal.open(directory)))
    assert(first:append(0, { "never three", "never four" }))
    assert(second:append(0, { "three", "four" }))
    step_until(function(status)
      return status.applied == 4
    end)
    assert.same({ "one", "two", "three", "four" }, applied)
    assert.equal("ok", (follower:verdict(0)))
    assert.equal("REPLACED", select(3, first:sync()))
    first:close()
  end)
end)
