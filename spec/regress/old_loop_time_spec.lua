--- A spec that worked outside the event loop for longer than it then meant to wait (c_spec runs for minutes) used to give up at once:
--- libuv starts a timer at the time of the loop's last turn. So the first child of the next spec "did not end in 60 s".

local sandbox = require "spec.support.sandbox"

describe("a wait after work outside the event loop", function()
  after_each(sandbox.cleanup)

  it("does not count the time of that work", function()
    local child = sandbox.start [[print(io.read())]]
    os.execute "sleep 5"
    child.input:write "here\n"
    assert.equal("here", child:read_line(4.5))
  end)
end)
