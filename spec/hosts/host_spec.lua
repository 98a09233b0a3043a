--- examples/host: built against what `make install` puts in place, through pkg-config, and driven over its connections.

local command_line = require "spec.support.command_line"
local host = require "spec.support.host"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

local build = os.getenv "TIDEMARK_BUILD" or "build"
local lua_version = _VERSION:match "%d%.%d"

describe("the C host", function()
  local directory, prefix, server, port

  setup(function()
    directory = sandbox.tempdir()
    prefix = directory .. "/prefix"
    local install = ("make -s install LUA=%s BUILD='%s' PREFIX='%s'"):format(lua_version, build, prefix)
    local ok, output = shell.run("LD_PRELOAD= MAKEFLAGS= " .. install)
    assert(ok, output)
    assert(shell.run(("MAKEFLAGS= make -s '%s/tidemark.pc' BUILD='%s'"):format(build, build)))
    -- with the sanitizer of this run, if there is one
    ok, output = shell.run(table.concat({
      "LD_PRELOAD= PKG_CONFIG_PATH='" .. prefix .. "/lib/pkgconfig'",
      "; export LD_PRELOAD PKG_CONFIG_PATH; cc -std=c11 -Wall -Wextra -Wshadow -Wconversion -Werror",
      os.getenv "TIDEMARK_CFLAGS" or "",
      ("examples/host/host.c -o '%s/host' $(pkg-config --cflags --libs tidemark lua%s) -pthread"):format(directory, lua_version),
    }, " "))
    assert(ok, output)
  end)

  teardown(sandbox.cleanup)

  local function words(...)
    local suffix = lua_version:gsub("%.", "_")
    return {
      "env", "LD_PRELOAD=", "ASAN_OPTIONS=detect_leaks=1", "LD_LIBRARY_PATH=" .. prefix .. "/lib",
      ("LUA_PATH_%s=%s/share/lua/%s/?.lua"):format(suffix, prefix, lua_version),
      ("LUA_CPATH_%s=%s/lib/lua/%s/?.so"):format(suffix, prefix, lua_version),
      directory .. "/host", ...,
    }
  end

  local function start(threads)
    server = sandbox.spawn(words("examples/host/script.lua", "0", tostring(threads)), true)
    port = math.tointeger(tonumber((server:read_line() or server.errors):match ":(%d+)$"))
    assert(port, server.errors)
  end

  -- Ends it with SIGTERM: it must end by itself, having said nothing.
  local function stop()
    server:signal_with "sigterm"
    assert.same({ code = 0, out = "ended\n", err = "" }, command_line.finish(server))
    assert.falsy(host.listens(port))
  end

  it("answers lines", function()
    start(1)
    local connection = host.connect(port)
    for _, case in ipairs {
      { "mark 0", "0" },
      { "advance 0 42", "true" },
      { "advance 0 41", "false" },
      { "  advance   3 9223372036854775807\r", "true" },
      { "mark 0", "42" },
      { "marks", '{"0":42,"1":0,"2":0,"3":9223372036854775807}' },
      { "wait 0 42 0", "true" },
      { "wait 0 43 0", "nil shard 0: the mark did not come to 43 in time TIMEOUT" },
      { "advance 9 1", "nil shard 9 is not tracked UNKNOWN_SHARD" },
      { "mark 9", "nil" },
      { "", "error: expected advance, mark, marks or wait" },
      { "stop", "error: expected advance, mark, marks or wait" },
      { "mark 0", "42" },
    } do
      assert.equal(case[2], connection:ask(case[1]))
    end
    for _, line in ipairs { "advance 0 -1", "advance 0 9223372036854775808", "advance 0", "advance 0 x", "mark -1", "mark 65536",
      "mark" } do
      assert.truthy(connection:ask(line):find "^error: .*bad argument", line)
    end
    assert.equal('{"0":42,"1":0,"2":0,"3":9223372036854775807}', connection:ask "marks")
    connection:close()
    stop()
  end)

  it("takes lines in pieces and several at once, and hangs up on one that does not end", function()
    start(1)
    local connection = host.connect(port)
    connection:send "advance 1 5\nmark 1\nma"
    assert.equal("true", connection:read_line())
    assert.equal("5", connection:read_line())
    connection:send "rk 1\n"
    assert.equal("5", connection:read_line())
    connection:send(("x"):rep(511))
    connection:send "\n"
    assert.equal("error: expected advance, mark, marks or wait", connection:read_line())
    connection:send(("x"):rep(512))
    assert.is_nil(connection:read_line())
    connection:close()
    stop()
  end)

  it("wakes a thread that waits for a mark, and the others serve meanwhile", function()
    start(3)
    local waiter, other, third = host.connect(port), host.connect(port), host.connect(port)
    waiter:send "wait 2 3 300\n"
    assert.equal("0", other:ask "mark 2")
    assert.equal("true", third:ask "advance 2 2")
    assert.equal("2", other:ask "mark 2")
    assert.equal("", waiter.unread)
    assert.equal("true", other:ask "advance 2 3")
    assert.equal("true", waiter:read_line())
    assert.equal("3", waiter:ask "mark 2")
    stop()
  end)

  it("loses no mark of 40,000 advances in all threads", function()
    start(4)
    local connections, each = {}, 10000
    for i = 1, 4 do
      local lines = {}
      for n = 1, each do
        lines[n] = ("advance %d %d\n"):format(n % 4, n * 4 + i)
      end
      connections[i] = host.connect(port)
      connections[i]:send(table.concat(lines))
    end
    for i = 1, 4 do
      for _ = 1, each do
        assert.truthy(({ ["true"] = true, ["false"] = true })[connections[i]:read_line()])
      end
    end
    assert.equal('{"0":40004,"1":39992,"2":39996,"3":40000}', connections[1]:ask "marks")
    stop()
  end)

  it("ends while all threads wait, with an answer for each", function()
    start(4)
    local connections = {}
    for i = 1, 4 do
      connections[i] = host.connect(port)
      -- in one piece: who has the answer to the first line knows that the host has the others; the second wait begins when
      -- the first one is interrupted
      assert.equal("0", connections[i]:ask "mark 0\nwait 0 1 300\nwait 0 2 300")
    end
    stop()
    for i = 1, 4 do
      assert.equal("nil the wait was interrupted INTERRUPTED", connections[i]:read_line())
      assert.equal("nil the wait was interrupted INTERRUPTED", connections[i]:read_line())
      assert.is_nil(connections[i]:read_line())
    end
  end)

  it("tells what is wrong before it starts", function()
    local function run(...)
      return command_line.run_words(words(...))
    end
    command_line.expect(2, run(), "usage: host SCRIPT PORT THREADS")
    command_line.expect(2, run("examples/host/script.lua", "0", "0"), "usage: host SCRIPT PORT THREADS")
    command_line.expect(1, run("no/script.lua", "0", "1"), "cannot open no/script.lua")
    shell.write(directory .. "/wrong.lua", "local state = ... state:advance(0, -1)")
    command_line.expect(1, run(directory .. "/wrong.lua", "0", "1"), "bad argument #2 to 'advance' (seqno out of range: -1)")
    local without = words("examples/host/script.lua", "0", "1")
    for i, word in ipairs(without) do
      without[i] = word:gsub("^(LUA_CPATH_.-)=.*", "%1=/no/?.so")
    end
    command_line.expect(1, command_line.run_words(without), "module 'tidemark.core' not found")
  end)

  it("does what its README says", function()
    if os.getenv "LD_PRELOAD" or lua_version ~= "5.4" then
      pending "its lines are for Lua 5.4 and no sanitizer"
      return
    end
    port = host.free_ports(1)
    local output = host.run_readme("examples/host/README.md", {
      { "make deps all\nmake install PREFIX=/tmp/tidemark\n", "" }, -- as setup does
      { "/tmp/tidemark", prefix },
      { "/tmp/host", directory .. "/readme_host" },
      { "8090", tostring(port) },
    })
    assert.equal(("listening on 127.0.0.1:%d\ntrue\nended\n"):format(port), output)
  end)
end)
