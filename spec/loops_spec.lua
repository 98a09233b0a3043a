--- The programs of examples/loops: each runs, and prints what it must.

local sandbox = require "spec.support.sandbox"
local markdown = require "spec.support.markdown"

-- The lines that a program of examples/loops prints, sorted.
local function lines_of(name, ...)
  local ok, output = sandbox.lua(("arg = {...}\nassert(loadfile 'examples/loops/%s')(...)\n"):format(name), ...)
  assert.is_true(ok, output)
  local lines = {}
  for line in output:gmatch "[^\n]+" do
    lines[#lines + 1] = line
  end
  table.sort(lines)
  return lines
end

describe("examples/loops", function()
  teardown(sandbox.cleanup)

  it("has each program in its README, and no other", function()
    local readme = markdown.read "examples/loops/README.md"
    local count = 0
    for path in io.popen("ls examples/loops/*.lua"):lines() do
      count = count + 1
      assert.truthy(readme:find("| `" .. path:match "[^/]+$", 1, true), path)
    end
    assert.equal(4, count)
  end)

  local expected = {
    "session 1: shard 1 is at 15, which is enough for 10",
    "session 2: shard 0 is at 30, which is enough for 20",
    "session 3: shard 1 is at 30, which is enough for 30",
    "session 4: shard 0 is at 45, which is enough for 40",
    "session 5: shard 1 is at 60, which is enough for 50",
    "session 6: shard 0 is at 60, which is enough for 60",
  }

  -- A loop that is late may see a mark further on, so of the mark only that it is enough.
  local function check_sessions(lines)
    assert.equal(#expected, #lines)
    for i, line in ipairs(lines) do
      local told, mark, target = line:match "^(session %d: shard %d) is at (%d+), which is enough for (%d+)$"
      assert.equal(expected[i]:match "^session %d: shard %d", told)
      assert.equal(expected[i]:match "%d+$", target)
      assert.truthy(tonumber(mark) >= tonumber(target) and tonumber(mark) % 15 == 0, line)
    end
  end

  it("luv_loop.lua", function()
    check_sessions(lines_of "luv_loop.lua")
  end)

  it("cqueues_loop.lua", function()
    local lines = lines_of "cqueues_loop.lua"
    assert.equal("in time: false", table.remove(lines, 1))
    check_sessions(lines)
  end)

  for _, name in ipairs { "luv_threads.lua", "cqueues_threads.lua" } do
    it(name, function()
      local path = sandbox.tempdir() .. "/state"
      assert.same({
        "shard 0 is at 20000",
        "shard 1 is at 20000",
        "shard 2 is at 20000",
        "shard 3 is at 20000",
        '{"0":20000,"1":20000,"2":20000,"3":20000}',
      }, lines_of(name, path))
    end)
  end
end)
