--- A leader was restored from a copy that is older than one of its shards. Followers that have records of that shard said that all was
--- well, with lag 0 and exit code 0: only the shards that the log has were compared.

local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local has_sqlite = pcall(require, "tidemark.sqlite")

local run, expect = command_line.run, command_line.expect

for _, kind in ipairs { "--state", has_sqlite and "--db" or nil } do
  describe(("follow %s of a log that no longer has a shard"):format(kind), function()
    local directory, log, target

    before_each(function()
      directory = sandbox.tempdir()
      log, target = directory .. "/log", directory .. "/target"
      local wal = assert(Wal.open(log, { shards = { 0 } }))
      assert(wal:append(0, { "a1" }))
      assert(wal:close())
      assert(shell.run(("cp -r '%s' '%s.copy'"):format(log, log)))
      wal = assert(Wal.open(log, { shards = { 0, 1 } }))
      assert(wal:append(1, { "b1", "b2", "b3" }))
      assert(wal:close())
    end)

    teardown(sandbox.cleanup)

    local function follow()
      if kind == "--db" then
        return run("follow", log, "--db", target, "--once")
      end
      return run("follow", log, "--state", target, "--print", "--once")
    end

    it("says so, and status does, too", function()
      expect(0, follow())
      assert(shell.run(("rm -r '%s' && mv '%s.copy' '%s'"):format(log, log, log)))
      local result = follow()
      assert.equal(3, result.code, result.err)
      assert.truthy(result.err:find("shard 1", 1, true), result.err)
      result = run("status", target, "--log", log, "--json")
      assert.equal(3, result.code, result.out)
      assert.is_nil(result.out:find('"1":{"applied":3,"verdict":"unknown"', 1, true), result.out)
    end)
  end)
end
