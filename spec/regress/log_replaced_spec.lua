--- A log that is restored from a copy while somebody reads it.

local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

local directory

before_each(function()
  directory = log.new()
end)

after_each(log.close)

teardown(sandbox.cleanup)

local function append(record)
  local wal = assert(Wal.open(directory, { shards = { 0 } }))
  assert(wal:append(0, { record }))
  assert(wal:close())
end

-- Ways to put the copy into the place of the log: as another directory, with the old one gone or only moved, and as other files in
-- the same one.
local RESTORES = {
  { "with its directory", "rm -r '%s' && mv '%s' '%s'" },
  { "with its directory, which is kept", "log='%s'; mv \"$log\" \"$log.kept\" && mv '%s' '%s'" },
  { "file by file", "rm '%s'/* && cp '%s'/* '%s'" },
}

for _, restore in ipairs(RESTORES) do
  describe("a log that is replaced " .. restore[1], function()
    before_each(function()
      append "one"
      assert(shell.run(("cp -r '%s' '%s.copy'"):format(directory, directory)))
      append "two"
    end)

    local function replace()
      assert(shell.run(restore[2]:format(directory, directory .. ".copy", directory)))
      append "other two"
      append "other three"
    end

    it("is found to have diverged by a follower that runs", function()
      local source = log.keep(assert(Wal.source(directory)))
      local state = log.keep(assert(ReplicationState.open(directory .. ".marks", { 0 })))
      local applied = {}
      local follower = log.keep(assert(Follower.new {
        state = state,
        source = source,
        apply = function(batch)
          for _, record in batch:records() do
            applied[#applied + 1] = record
          end
          return true
        end,
      }))
      assert.equal(1, follower:step(10))
      assert.equal(1, follower:step(10))
      replace()
      assert(follower:step(10))
      local status = follower:status()[0]
      assert.same({ "diverged", "DIVERGED", 2 }, { status.state, status.code, status.applied })
      assert.same({ "one", "two" }, applied)
    end)

    it("gives a reader no record of the other one", function()
      local reader = assert(log.read(0))
      assert.same({ "1=one", "2=two" }, (log.drain(reader)))
      replace()
      log.assert_failure("REPLACED", "was replaced since it was opened", reader:next(10))
      log.assert_failure("REPLACED", "was replaced since it was opened", reader:next(0.1))
    end)
  end)
end
