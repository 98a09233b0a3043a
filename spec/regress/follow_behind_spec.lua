--- `tidemark follow --once` waited for ever where the log's heads were behind the marks: a lag below 0 was taken for work to do.

local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"

describe("tidemark follow --once of a log that has lost records", function()
  teardown(sandbox.cleanup)

  it("ends and says so", function()
    local directory = sandbox.tempdir()
    local log, state, copy = directory .. "/log", directory .. "/state", directory .. "/copy"
    local function run(input, ...)
      local child = command_line.start(...)
      if input then
        assert(child:write(input))
      end
      child:close_input()
      return command_line.finish(child)
    end
    assert.equal(0, run("one", "append", log).code)
    assert(os.execute(("cp -r '%s' '%s'"):format(log, copy)))
    assert.equal(0, run("two", "append", log).code)
    assert.equal("one\ntwo\n", run(nil, "follow", log, "--state", state, "--print", "--once").out)
    assert(os.execute(("rm -r '%s' && mv '%s' '%s'"):format(log, copy, log)))
    local result = run(nil, "follow", log, "--state", state, "--print", "--once")
    assert.equal(3, result.code)
    assert.equal("", result.out)
    assert.truthy(result.err:find("shard 0: record 2 is the last one applied, but the log ends at record 1", 1, true), result.err)
  end)
end)
