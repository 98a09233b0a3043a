--- `tidemark follow` ended with a traceback when it met a log that its writer was just making: heads without shards.

local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local ReplicationState = require "tidemark.replication_state"

describe("tidemark follow of a log that is just being made", function()
  teardown(sandbox.cleanup)

  it("says so and makes nothing", function()
    local directory = sandbox.tempdir()
    assert(ReplicationState.open(directory .. "/heads", {})):close()
    for _, option in ipairs { "--db", "--state" } do
      local file = directory .. "/followed"
      local result = command_line.run("follow", directory, option, file, option == "--state" and "--print" or nil)
      assert.equal(1, result.code)
      assert.truthy(result.err:find("there is no log", 1, true), result.err)
      assert.is_nil(result.err:find("traceback", 1, true))
      assert.is_nil(io.open(file))
    end
  end)
end)
